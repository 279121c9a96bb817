// The Flex Consumption plan and the Functions app.

@description('Name of the app.')
@minLength(2)
@maxLength(60)
param name string

@description('Name of the plan.')
param planName string

@description('Azure region.')
param location string

@description('Tags.')
param tags object

@description('Memory of an instance, in MB.')
@allowed([
  512
  2048
  4096
])
param instanceMemoryMB int

@description('Maximum number of instances.')
@minValue(40)
@maxValue(1000)
param maximumInstanceCount int

@description('Calls in flight in one instance before another is started.')
@minValue(1)
@maxValue(1000)
param perInstanceConcurrency int

@description('Instances kept running.')
@minValue(0)
@maxValue(20)
param alwaysReady int

@description('Whether the plan spreads over availability zones.')
param zoneRedundant bool

@description('What a deployment does to running instances.')
@allowed([
  'Recreate'
  'RollingUpdate'
])
param updateStrategy string

@description('Resource id of the identity of the app.')
param identityId string

@description('Client id of that identity.')
param identityClientId string

@description('The storage of the Functions host.')
param storageName string

@description('Container that the app is deployed to.')
param deploymentContainerName string

@description('The Application Insights component.')
param insightsName string

@description('Base URL of the APIM API.')
@minLength(12)
param apimBaseUrl string

@description('Bytes of the largest request body that the Functions host admits.')
@minValue(1)
param hostBodyBytes int

@description('Web origins, for the platform, which answers preflights on Flex Consumption.')
param corsOrigins array

@description('Whether browsers may send credentials.')
param corsCredentials bool

@description('Subnet through which calls leave; empty for none.')
param subnetId string

@description('Whether the app answers at its public address.')
param publicAccess bool

@description('Addresses or ranges that may call the app; empty for all.')
param allowedAddresses array

@description('Settings of the shim.')
param settings object

// The version that the tests run on; tests/test_infra.py holds the two together.
var pythonVersion = '3.13'
// A zone-redundant plan needs two at least.
var leastInstances = zoneRedundant ? max(alwaysReady, 2) : alwaysReady

// https://learn.microsoft.com/azure/azure-functions/functions-reference#connecting-to-host-storage-with-an-identity
var hostSettings = {
  AzureWebJobsDisableHomepage: 'true'
  AzureWebJobsStorage__credential: 'managedidentity'
  AzureWebJobsStorage__clientId: identityClientId
  AzureWebJobsStorage__blobServiceUri: storage.properties.primaryEndpoints.blob
  AzureWebJobsStorage__tableServiceUri: storage.properties.primaryEndpoints.table
  APPLICATIONINSIGHTS_AUTHENTICATION_STRING: 'ClientId=${identityClientId};Authorization=AAD'
  // It says where to send, not who may: local auth is off.
  APPLICATIONINSIGHTS_CONNECTION_STRING: insights.properties.ConnectionString
  // azure-functions-host, HttpRequestBodySizeMiddleware; 104857600 where it is not set.
  FUNCTIONS_REQUEST_BODY_SIZE_LIMIT: string(hostBodyBytes)
}

resource storage 'Microsoft.Storage/storageAccounts@2025-06-01' existing = {
  name: storageName
}

resource insights 'Microsoft.Insights/components@2020-02-02' existing = {
  name: insightsName
}

resource serverFarm 'Microsoft.Web/serverfarms@2025-03-01' = {
  // checkov:skip=CKV_AZURE_225:zoneRedundant is a parameter, since not every region has zones and they cost two instances
  name: planName
  location: location
  tags: tags
  kind: 'functionapp'
  sku: {
    name: 'FC1'
    tier: 'FlexConsumption'
  }
  properties: {
    reserved: true
    zoneRedundant: zoneRedundant
  }
}

// siteUpdateStrategy came with this API version. Bicep ships no types for it so far, and says so in a warning, BCP081.
#disable-next-line BCP081
resource app 'Microsoft.Web/sites@2025-05-01' = {
  // checkov:skip=CKV_AZURE_78:Flex Consumption has no FTP and refuses ftpsState
  // checkov:skip=CKV_AZURE_213:Flex Consumption replaces unhealthy instances itself and has no healthCheckPath
  // checkov:skip=CKV_AZURE_212:the number of instances is a parameter, and 0 is what makes an idle shim cost nothing
  // checkov:skip=CKV_AZURE_17:callers are OpenAI clients, which have no client certificates; the shim checks their keys
  // checkov:skip=CKV_AZURE_222:the shim is there to be called; the parameters inbound and allowedAddresses close it
  name: name
  location: location
  tags: union(tags, { 'azd-service-name': 'shim' })
  kind: 'functionapp,linux'
  identity: {
    type: 'UserAssigned'
    userAssignedIdentities: {
      '${identityId}': {}
    }
  }
  properties: {
    serverFarmId: serverFarm.id
    httpsOnly: true
    // For a host name of one's own, should there ever be one: it cannot be switched on later.
    siteScopedCertificatesEnabled: true
    clientAffinityEnabled: false
    publicNetworkAccess: publicAccess ? 'Enabled' : 'Disabled'
    keyVaultReferenceIdentity: identityId
    virtualNetworkSubnetId: empty(subnetId) ? null : subnetId
    functionAppConfig: {
      deployment: {
        storage: {
          type: 'blobContainer'
          value: '${storage.properties.primaryEndpoints.blob}${deploymentContainerName}'
          authentication: {
            type: 'UserAssignedIdentity'
            userAssignedIdentityResourceId: identityId
          }
        }
      }
      runtime: {
        name: 'python'
        version: pythonVersion
      }
      scaleAndConcurrency: {
        instanceMemoryMB: instanceMemoryMB
        maximumInstanceCount: maximumInstanceCount
        alwaysReady: (leastInstances == 0) ? [] : [
          {
            name: 'http'
            instanceCount: leastInstances
          }
        ]
        triggers: {
          http: {
            perInstanceConcurrency: perInstanceConcurrency
          }
        }
      }
      siteUpdateStrategy: {
        type: updateStrategy
      }
    }
    siteConfig: {
      minTlsVersion: '1.2'
      scmMinTlsVersion: '1.2'
      http20Enabled: true
      cors: {
        allowedOrigins: corsOrigins
        supportCredentials: corsCredentials
      }
      ipSecurityRestrictionsDefaultAction: empty(allowedAddresses) ? 'Allow' : 'Deny'
      ipSecurityRestrictions: [for (address, index) in allowedAddresses: {
        name: 'allowed-${index}'
        action: 'Allow'
        priority: 100 + index
        ipAddress: contains(address, '/') ? address : (contains(address, ':') ? '${address}/128' : '${address}/32')
      }]
    }
  }
}

// All app settings in one place: those of the shim, and those of the host.
resource appSettings 'Microsoft.Web/sites/config@2025-03-01' = {
  // checkov:skip=CKV_AZURE_13:this is the configuration named appsettings, which has no such property; the shim checks keys itself
  // checkov:skip=CKV_AZURE_63:this is the configuration named appsettings, which has no such property; requests go to Application Insights
  // checkov:skip=CKV_AZURE_65:this is the configuration named appsettings, which has no such property; failures go to Application Insights
  // checkov:skip=CKV_AZURE_66:this is the configuration named appsettings, which has no such property; failures go to Application Insights
  // checkov:skip=CKV_AZURE_80:this is the configuration named appsettings, which has no such property; the app is in Python
  // checkov:skip=CKV_AZURE_88:Azure Files takes account keys only, and this storage has none; the app keeps nothing on disk
  // checkov:skip=CKV_AZURE_222:this is the configuration named appsettings; the shim is there to be called
  parent: app
  name: 'appsettings'
  properties: union(settings, { APIM_BASE_URL: apimBaseUrl }, hostSettings)
}

// Deployment by identity only: neither FTP nor the deployment site takes passwords.
resource ftpPasswords 'Microsoft.Web/sites/basicPublishingCredentialsPolicies@2025-03-01' = {
  parent: app
  name: 'ftp'
  properties: {
    allow: false
  }
}

resource scmPasswords 'Microsoft.Web/sites/basicPublishingCredentialsPolicies@2025-03-01' = {
  parent: app
  name: 'scm'
  properties: {
    allow: false
  }
}

output id string = app.id
output name string = app.name
output url string = 'https://${app.properties.defaultHostName}'
output domainVerificationId string = app.properties.customDomainVerificationId

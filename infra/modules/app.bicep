// The plan and the Functions app.

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

@description('Hosting plan.')
@allowed([
  'flex'
  'premium'
])
param plan string

@description('Flex: memory of an instance, in MB.')
@allowed([
  512
  2048
  4096
])
param instanceMemoryMB int

@description('Most instances at a time; premium has 20 at most.')
@minValue(40)
@maxValue(1000)
param maximumInstanceCount int

@description('Flex: calls at a time in one instance before another is started.')
@minValue(1)
@maxValue(1000)
param httpPerInstanceConcurrency int

@description('Instances kept running.')
@minValue(0)
@maxValue(20)
param alwaysReady int

@description('Whether the plan spreads over availability zones.')
param zoneRedundant bool

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

@description('Web origins; the platform is told only on Flex, where it answers preflights itself.')
param corsAllowedOrigins array

@description('Whether browsers may send credentials.')
param corsAllowCredentials bool

@description('Subnet through which calls leave; empty for none.')
param subnetId string

@description('Settings of the shim.')
param settings object

// What the tests run on. A newer one is a change to be tested, not to be met with.
var pythonVersion = '3.13'
var isFlex = plan == 'flex'
// Two at least in a zone-redundant plan, of either kind.
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
}

// Flex sets these itself, and refuses to have them set.
var premiumSettings = {
  FUNCTIONS_EXTENSION_VERSION: '~4'
  FUNCTIONS_WORKER_RUNTIME: 'python'
  ENABLE_ORYX_BUILD: 'true'
  SCM_DO_BUILD_DURING_DEPLOYMENT: 'true'
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
  kind: isFlex ? 'functionapp' : 'elastic'
  sku: isFlex ? {
    name: 'FC1'
    tier: 'FlexConsumption'
  } : {
    name: 'EP1'
    tier: 'ElasticPremium'
    capacity: max(leastInstances, 1)
  }
  properties: union({
    reserved: true
    zoneRedundant: zoneRedundant
  }, isFlex ? {} : {
    maximumElasticWorkerCount: min(maximumInstanceCount, 20)
  })
}

resource app 'Microsoft.Web/sites@2025-03-01' = {
  // checkov:skip=CKV_AZURE_15:minTlsVersion is 1.2, inside a union that checkov does not evaluate
  // checkov:skip=CKV_AZURE_18:http20Enabled is true, inside a union that checkov does not evaluate
  // checkov:skip=CKV_AZURE_67:http20Enabled is true, inside a union that checkov does not evaluate
  // checkov:skip=CKV_AZURE_78:Flex has no FTP and refuses ftpsState; on Premium it is Disabled, inside the union
  // checkov:skip=CKV_AZURE_213:Flex replaces unhealthy instances itself; on Premium healthCheckPath is set, inside the union
  // checkov:skip=CKV_AZURE_212:the number of instances is a parameter, and 0 is what makes an idle shim cost nothing
  // checkov:skip=CKV_AZURE_17:callers are OpenAI clients, which have no client certificates; the shim checks their keys
  // checkov:skip=CKV_AZURE_222:the shim is there to be called; what it reaches can be closed by the parameter network
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
    clientAffinityEnabled: false
    publicNetworkAccess: 'Enabled'
    keyVaultReferenceIdentity: identityId
    virtualNetworkSubnetId: empty(subnetId) ? null : subnetId
    functionAppConfig: isFlex ? {
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
            perInstanceConcurrency: httpPerInstanceConcurrency
          }
        }
      }
    } : null
    siteConfig: union({
      minTlsVersion: '1.2'
      scmMinTlsVersion: '1.2'
      http20Enabled: true
    }, isFlex ? {
      cors: {
        allowedOrigins: corsAllowedOrigins
        supportCredentials: corsAllowCredentials
      }
    } : {
      // Flex has no FTP and refuses this property; elsewhere the shim answers preflights, so the platform's list stays empty.
      ftpsState: 'Disabled'
      linuxFxVersion: 'Python|${pythonVersion}'
      healthCheckPath: '/healthz'
      minimumElasticInstanceCount: max(leastInstances, 1)
      vnetRouteAllEnabled: !empty(subnetId)
    })
  }
}

// One place: the shim's own settings, the host's, and what only one plan takes.
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
  properties: union(settings, hostSettings, isFlex ? {} : premiumSettings)
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

output name string = app.name
output url string = 'https://${app.properties.defaultHostName}'

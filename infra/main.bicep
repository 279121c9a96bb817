// The shim in one resource group: app, vault, monitoring and roles, and on request a network and alerts.
targetScope = 'subscription'

@description('Name of the azd environment; all resource names are derived from it.')
@minLength(1)
@maxLength(40)
param environmentName string

@description('Azure region. It must offer Flex Consumption: `az functionapp list-flexconsumption-locations`.')
@minLength(1)
param location string

// azd prompts for a parameter without a default before any hook runs, so this one has a default that no deployment
// gets past: modules/app.bicep refuses it.
@description('Base URL of the APIM API, for example https://contoso.azure-api.net/my-openai-api/openai. Required; under azd the preprovision hook asks for it.')
param apimBaseUrl string = ''

@description('What the APIM API speaks: legacy (deployments and api-version) or v1.')
@allowed([
  'legacy'
  'v1'
])
param apimApi string = 'legacy'

@description('Where v1 calls go, if not to /v1 under apimBaseUrl.')
param apimV1BaseUrl string = ''

@description('api-version for legacy calls that name none; empty for the default of the shim.')
param apimApiVersion string = ''

@description('Header in which the APIM API expects the subscription key.')
@minLength(1)
param apimKeyHeader string = 'api-key'

@description('model=deployment,… for models whose deployment has another name.')
param modelDeployments string = ''

@description('How keys are found in the vault: by digest, or by scanning secrets that have names of their own.')
@allowed([
  'digest'
  'scan'
])
param keyLookup string = 'digest'

@description('Prefix of the names of the secrets that hold subscription keys.')
@minLength(1)
@maxLength(63)
param keySecretPrefix string = 'apim-sub-'

@description('Web origins that may call from browsers, comma-separated. Both the shim and the platform get the list: on Flex Consumption the platform answers preflights, and it knows exact origins or * only.')
param corsOrigins string = ''

@description('Whether browsers may send credentials; cannot be combined with the origin *.')
param corsCredentials bool = false

@description('Bytes of the largest body that the shim reads to find `model`; a larger one gets a 413. 0 chooses by instance memory.')
@minValue(0)
param maxBodyBytes int = 0

@description('Bytes of the largest upload that the Functions host admits; a larger one gets an empty 500. 0, or too little to let the 413 of maxBodyBytes happen, means a quarter more than maxBodyBytes.')
@minValue(0)
param uploadLimitBytes int = 0

@description('Whether /readyz tells anonymous callers the reasons in full, host names included.')
param readyzDetails bool = false

@description('Since when the shim is deprecated: a date like 2027-01-31; empty for not at all.')
param deprecated string = ''

@description('When it ends, in the same form; empty for no end.')
param sunset string = ''

@description('A page that tells callers what to use instead.')
param sunsetLink string = ''

@description('What becomes of calls after the sunset.')
@allowed([
  'serve'
  'refuse'
])
param afterSunset string = 'serve'

@description('A window of refusals that comes again until then, like 10m/day; empty for none.')
param brownout string = ''

@description('Further settings of the shim by name. Not for secrets.')
param settings object = {}

@description('Object id of the operator who may write subscription keys; empty for nobody.')
param principalId string = ''

@description('What that operator is.')
@allowed([
  'User'
  'Group'
  'ServicePrincipal'
])
param principalType string = 'User'

@description('Memory of an instance in MB; processor and network come in proportion.')
@allowed([
  512
  2048
  4096
])
param instanceMemoryMB int = 2048

@description('Maximum number of instances. Flex Consumption takes no number below 40.')
@minValue(40)
@maxValue(1000)
param maximumInstanceCount int = 40

@description('Calls in flight in one instance before another is started; 0 chooses by instance memory. The platform default for Python is 1, which would start an instance for every open stream.')
@minValue(0)
@maxValue(1000)
param httpPerInstanceConcurrency int = 0

@description('Instances kept running, so that no call waits for a cold start. Zone redundancy needs 2.')
@minValue(0)
@maxValue(20)
param alwaysReady int = 0

@description('Whether plan and storage spread over availability zones.')
param zoneRedundant bool = false

@description('What a deployment or a changed setting does to running instances: RollingUpdate drains them in batches, Recreate kills them with the calls in flight.')
@allowed([
  'Recreate'
  'RollingUpdate'
])
param updateStrategy string = 'RollingUpdate'

@description('Outbound network: public; integrated (calls leave through a virtual network, to reach an internal APIM); private (integrated, with vault and storage behind private endpoints).')
@allowed([
  'public'
  'integrated'
  'private'
])
param network string = 'public'

@description('Inbound network: public, or private (the app answers only at a private endpoint).')
@allowed([
  'public'
  'private'
])
param inbound string = 'public'

@description('Addresses or ranges, comma-separated, that may call the app; empty for all.')
param allowedAddresses string = ''

@description('An existing subnet to integrate with, delegated to Microsoft.App/environments; empty for a new virtual network.')
param appSubnetId string = ''

@description('An existing subnet for private endpoints; empty for one in the new virtual network. Required together with appSubnetId where there are private endpoints.')
param endpointSubnetId string = ''

@description('Resource id of the resource group with existing private DNS zones (privatelink.vaultcore.azure.net and so on), linked to the networks that need them; empty for new zones.')
param privateDnsZonesGroupId string = ''

@description('Address ranges of the new subnets, for the app and for private endpoints; at least a /26 and a /27.')
@minLength(2)
@maxLength(2)
param addressPrefixes array = [
  '10.90.0.0/26'
  '10.90.0.64/26'
]

@description('Addresses or ranges, comma-separated, from which operators reach a private vault.')
param vaultAllowedAddresses string = ''

@description('A host name of your own for callers, such as ai.example.com, with its CNAME and TXT records in place; empty for the name that the platform gives.')
param customDomain string = ''

@description('The host name that the last deployment bound; azd keeps it.')
param boundDomain string = ''

@description('Resource id of the APIM service whose keys a timer imports into the vault; empty for no timer.')
param apimResourceId string = ''

@description('Whether to create alert rules: rate of 5xx, vault failures, storms of 401.')
param alertsEnabled bool = false

@description('Mail address for alerts; empty for alerts that only show in the portal.')
param alertEmail string = ''

@description('Days for which logs are kept.')
@minValue(30)
@maxValue(730)
param logRetentionDays int = 30

var token = toLower(uniqueString(subscription().id, environmentName, location))
var tags = { 'azd-env-name': environmentName }
var isPrivate = network == 'private'
var isIntegrated = network != 'public'
var isInboundPrivate = inbound == 'private'
var givenSubnetId = isIntegrated ? appSubnetId : endpointSubnetId
var makesNetwork = (isIntegrated || isInboundPrivate) && empty(givenSubnetId)
var importsKeys = !empty(apimResourceId)
// A module's scope is computed even where the module is left out, so there must be something to compute.
var apimScope = importsKeys ? split(apimResourceId, '/') : [
  ''
  'subscriptions'
  subscription().subscriptionId
  'resourceGroups'
  'rg-${environmentName}'
]

// docs/deploy.md derives both: a sized JSON body takes up to ten times its size while it arrives, most of that in the
// Functions host. So each call in flight is given 20 MB, and no single body may take more than half of the memory.
var perInstanceConcurrency = (httpPerInstanceConcurrency == 0) ? (instanceMemoryMB / 20) : httpPerInstanceConcurrency
var bodyBytes = (maxBodyBytes == 0) ? min(104857600, instanceMemoryMB * 52429) : maxBodyBytes
// Above the host's limit callers get an empty 500. Up to a quarter too much still reaches the shim, for a 413 that
// says what is wrong.
var hostBodyBytes = max(uploadLimitBytes, (bodyBytes + (bodyBytes / 4)))

// Every setting of the shim but APIM_BASE_URL comes from here. What infra knows wins over what `settings` says.
var shimSettings = union(settings, {
  APIM_API: apimApi
  APIM_V1_BASE_URL: apimV1BaseUrl
  APIM_API_VERSION: apimApiVersion
  APIM_KEY_HEADER: apimKeyHeader
  MODEL_DEPLOYMENTS: modelDeployments
  KEY_VAULT_URL: vault.outputs.url
  KEY_LOOKUP: keyLookup
  KEY_SECRET_PREFIX: keySecretPrefix
  CORS_ORIGINS: corsOrigins
  CORS_CREDENTIALS: string(corsCredentials)
  MAX_BODY_BYTES: string(bodyBytes)
  AZURE_CLIENT_ID: identity.outputs.clientId
  READYZ_DETAILS: string(readyzDetails)
  SHIM_DEPRECATED: deprecated
  SHIM_SUNSET: sunset
  SHIM_SUNSET_LINK: sunsetLink
  SHIM_AFTER_SUNSET: afterSunset
  SHIM_BROWNOUT: brownout
}, importsKeys ? { APIM_RESOURCE_ID: apimResourceId } : {})

resource group 'Microsoft.Resources/resourceGroups@2024-11-01' = {
  name: 'rg-${environmentName}'
  location: location
  tags: tags
}

module identity 'modules/identity.bicep' = {
  name: 'identity'
  scope: group
  params: {
    name: 'id-shim-${token}'
    location: location
    tags: tags
  }
}

module monitoring 'modules/monitoring.bicep' = {
  name: 'monitoring'
  scope: group
  params: {
    token: token
    location: location
    tags: tags
    retentionDays: logRetentionDays
  }
}

module vault 'modules/vault.bicep' = {
  name: 'vault'
  scope: group
  params: {
    name: 'kv-${token}'
    location: location
    tags: tags
    closed: isPrivate
    allowedAddresses: empty(vaultAllowedAddresses) ? [] : split(replace(vaultAllowedAddresses, ' ', ''), ',')
    workspaceId: monitoring.outputs.workspaceId
  }
}

module storage 'modules/storage.bicep' = {
  name: 'storage'
  scope: group
  params: {
    name: 'st${token}'
    location: location
    tags: tags
    closed: isPrivate
    zoneRedundant: zoneRedundant
  }
}

module virtualNetwork 'modules/network.bicep' = if (makesNetwork) {
  name: 'network'
  scope: group
  params: {
    token: token
    location: location
    tags: tags
    addressPrefixes: addressPrefixes
  }
}

// https://learn.microsoft.com/azure/private-link/private-endpoint-dns names the groups and zones.
module endpoints 'modules/endpoints.bicep' = if (isPrivate) {
  name: 'endpoints'
  scope: group
  params: {
    location: location
    tags: tags
    subnetId: makesNetwork ? virtualNetwork!.outputs.endpointSubnetId : endpointSubnetId
    virtualNetworkId: makesNetwork ? virtualNetwork!.outputs.id : first(split(appSubnetId, '/subnets/'))
    zonesGroupId: privateDnsZonesGroupId
    targets: [
      {
        name: 'vault'
        resourceId: vault.outputs.id
        zone: 'privatelink.vaultcore.azure.net'
      }
      {
        name: 'blob'
        resourceId: storage.outputs.id
        zone: 'privatelink.blob.${environment().suffixes.storage}'
      }
      {
        name: 'table'
        resourceId: storage.outputs.id
        zone: 'privatelink.table.${environment().suffixes.storage}'
      }
    ]
  }
}

module inboundEndpoint 'modules/endpoints.bicep' = if (isInboundPrivate) {
  name: 'inbound-endpoint'
  scope: group
  params: {
    location: location
    tags: tags
    subnetId: makesNetwork ? virtualNetwork!.outputs.endpointSubnetId : endpointSubnetId
    virtualNetworkId: makesNetwork ? virtualNetwork!.outputs.id : first(split(endpointSubnetId, '/subnets/'))
    zonesGroupId: privateDnsZonesGroupId
    targets: [
      {
        name: 'sites'
        resourceId: app.outputs.id
        zone: 'privatelink.azurewebsites.net'
      }
    ]
  }
}

// Roles come before the app: it must be able to read its package when it first starts.
module rbac 'modules/rbac.bicep' = {
  name: 'rbac'
  scope: group
  params: {
    vaultName: vault.outputs.name
    storageName: storage.outputs.name
    insightsName: monitoring.outputs.insightsName
    appPrincipalId: identity.outputs.principalId
    operatorPrincipalId: principalId
    operatorPrincipalType: principalType
    importsKeys: importsKeys
  }
}

module apimReader 'modules/apim-reader.bicep' = if (importsKeys) {
  name: 'apim-reader-${token}'
  scope: resourceGroup(apimScope[2], apimScope[4])
  params: {
    apimName: last(apimScope)
    appPrincipalId: identity.outputs.principalId
    token: token
  }
}

module app 'modules/app.bicep' = {
  name: 'app'
  scope: group
  params: {
    name: 'func-shim-${token}'
    planName: 'plan-shim-${token}'
    location: location
    tags: tags
    instanceMemoryMB: instanceMemoryMB
    maximumInstanceCount: maximumInstanceCount
    perInstanceConcurrency: perInstanceConcurrency
    alwaysReady: alwaysReady
    zoneRedundant: zoneRedundant
    updateStrategy: updateStrategy
    identityId: identity.outputs.id
    identityClientId: identity.outputs.clientId
    storageName: storage.outputs.name
    deploymentContainerName: storage.outputs.deploymentContainerName
    insightsName: monitoring.outputs.insightsName
    apimBaseUrl: apimBaseUrl
    hostBodyBytes: hostBodyBytes
    corsOrigins: empty(corsOrigins) ? [] : split(replace(corsOrigins, ' ', ''), ',')
    corsCredentials: corsCredentials
    subnetId: isIntegrated ? (makesNetwork ? virtualNetwork!.outputs.appSubnetId : appSubnetId) : ''
    publicAccess: !isInboundPrivate
    allowedAddresses: empty(allowedAddresses) ? [] : split(replace(allowedAddresses, ' ', ''), ',')
    settings: shimSettings
  }
  dependsOn: [
    rbac
    endpoints
  ]
}

module domain 'modules/domain.bicep' = if (!empty(customDomain)) {
  name: 'domain'
  scope: group
  params: {
    appName: app.outputs.name
    location: location
    tags: tags
    hostName: customDomain
    isBound: boundDomain == customDomain
  }
}

module workbook 'modules/workbook.bicep' = {
  name: 'workbook'
  scope: group
  params: {
    location: location
    tags: tags
    workspaceId: monitoring.outputs.workspaceId
  }
}

module alerts 'modules/alerts.bicep' = if (alertsEnabled) {
  name: 'alerts'
  scope: group
  params: {
    token: token
    location: location
    tags: tags
    workspaceId: monitoring.outputs.workspaceId
    email: alertEmail
  }
}

// What to hand out: with a name of one's own, the shim can be retired by a change in DNS.
var callersUrl = empty(customDomain) ? app.outputs.url : 'https://${customDomain}'

output AZURE_LOCATION string = location
output AZURE_TENANT_ID string = tenant().tenantId
output AZURE_RESOURCE_GROUP string = group.name
output AZURE_FUNCTION_NAME string = app.outputs.name
output KEY_VAULT_NAME string = vault.outputs.name
output KEY_VAULT_URL string = vault.outputs.url
output LOG_ANALYTICS_WORKSPACE_ID string = monitoring.outputs.workspaceGuid
output SHIM_URL string = app.outputs.url
output SHIM_OPENAI_BASE_URL string = '${callersUrl}/openai/v1'
output SHIM_BOUND_DOMAIN string = customDomain
output SHIM_DOMAIN_VERIFICATION_ID string = app.outputs.domainVerificationId

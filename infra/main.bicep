// The shim in one resource group: app, vault, monitoring, roles, and, where asked for, network and alerts.
targetScope = 'subscription'

@description('Name of the azd environment; every name below is derived from it.')
@minLength(1)
@maxLength(40)
param environmentName string

@description('Azure region. It must offer the chosen plan, see `az functionapp list-flexconsumption-locations`.')
@minLength(1)
param location string

@description('Base URL of the APIM API, for example https://contoso.azure-api.net/my-openai-api/openai.')
@minLength(12)
param apimBaseUrl string

@description('What the APIM API speaks: legacy (deployments and api-version) or v1.')
@allowed([
  'legacy'
  'v1'
])
param apimApi string = 'legacy'

@description('Where v1 calls go, if not to /v1 under apimBaseUrl.')
param apimV1BaseUrl string = ''

@description('api-version put on legacy calls that name none; empty for the default of the shim.')
param apimApiVersion string = ''

@description('Header in which the APIM API takes the subscription key.')
@minLength(1)
param apimKeyHeader string = 'api-key'

@description('model=deployment,… for models whose deployment has another name.')
param modelDeployments string = ''

@description('How keys are found in the vault: by digest, or by scanning secrets under names of their own.')
@allowed([
  'digest'
  'scan'
])
param keyLookup string = 'digest'

@description('Prefix of the names of the secrets that hold subscription keys.')
@minLength(1)
@maxLength(63)
param keySecretPrefix string = 'apim-sub-'

@description('Web origins that may call from browsers, comma-separated. It feeds both the shim and, on Flex, the platform, which answers preflights there and knows only exact origins or *.')
param corsAllowedOrigins string = ''

@description('Whether browsers may send credentials; not together with the origin *.')
param corsAllowCredentials bool = false

@description('Whether /readyz tells anonymous callers the reasons in full, host names included.')
param readyzDetails bool = false

@description('Further settings of the shim by name, from the table in the README. Secrets do not belong here.')
param settings object = {}

@description('Object id of the operator who deploys and may write subscription keys; empty for nobody.')
param principalId string = ''

@description('What that operator is.')
@allowed([
  'User'
  'Group'
  'ServicePrincipal'
])
param principalType string = 'User'

@description('Hosting plan: flex (scales to zero) or premium (EP1, at least one instance).')
@allowed([
  'flex'
  'premium'
])
param plan string = 'flex'

@description('Flex: memory of an instance, in MB; processor and network come in proportion.')
@allowed([
  512
  2048
  4096
])
param instanceMemoryMB int = 2048

@description('Most instances at a time. Flex takes no number below 40; premium has 20 at most.')
@minValue(40)
@maxValue(1000)
param maximumInstanceCount int = 40

@description('Flex: calls at a time in one instance before another is started. The platform default for Python is 1, which would start an instance for every open stream.')
@minValue(1)
@maxValue(1000)
param httpPerInstanceConcurrency int = 200

@description('Flex: instances kept running, so that no call meets a cold start; premium: least number of instances. Zone redundancy needs 2.')
@minValue(0)
@maxValue(20)
param alwaysReady int = 0

@description('Whether the plan and the storage spread over availability zones.')
param zoneRedundant bool = false

@description('Network: public; integrated (calls leave through a virtual network, to reach an internal APIM); private (the same, with vault and storage behind private endpoints).')
@allowed([
  'public'
  'integrated'
  'private'
])
param network string = 'public'

@description('Network: a subnet of your own to integrate with, delegated to Microsoft.App/environments (flex) or Microsoft.Web/serverFarms (premium). Empty for a new virtual network.')
param appSubnetId string = ''

@description('Network: a subnet of your own for private endpoints. Empty for one in the new virtual network; needed together with appSubnetId.')
param endpointSubnetId string = ''

@description('Network: id of the virtual network of your own subnets, to which the private DNS zones are linked.')
param virtualNetworkId string = ''

@description('Network: address ranges of the new subnets, of the app and of private endpoints; a /26 and a /27 at least.')
@minLength(2)
@maxLength(2)
param addressPrefixes array = [
  '10.90.0.0/26'
  '10.90.0.64/26'
]

@description('Addresses, comma-separated, from which a closed vault can be reached all the same, for operators who bring in keys.')
param vaultAllowedAddresses string = ''

@description('Resource id of the APIM service whose keys a timer imports into the vault; empty for no timer.')
param apimResourceId string = ''

@description('Whether to create alert rules: rate of 5xx, failures of the vault, storms of 401.')
param alertsEnabled bool = false

@description('Mail address that alerts go to; empty for alerts that only show in the portal.')
param alertEmail string = ''

@description('Days for which logs are kept.')
@minValue(30)
@maxValue(730)
param logRetentionDays int = 30

var token = toLower(uniqueString(subscription().id, environmentName, location))
var tags = { 'azd-env-name': environmentName }
var isPrivate = network == 'private'
var isIntegrated = network != 'public'
var makesNetwork = isIntegrated && empty(appSubnetId)
var importsKeys = !empty(apimResourceId)
// A module's scope is computed even where the module is left out, so that there must be something to compute.
var apimScope = importsKeys ? split(apimResourceId, '/') : [
  ''
  'subscriptions'
  subscription().subscriptionId
  'resourceGroups'
  'rg-${environmentName}'
]

// Every setting of the shim comes from here. What infra knows wins over what `settings` says.
var shimSettings = union(settings, {
  APIM_BASE_URL: apimBaseUrl
  APIM_API: apimApi
  APIM_V1_BASE_URL: apimV1BaseUrl
  APIM_API_VERSION: apimApiVersion
  APIM_KEY_HEADER: apimKeyHeader
  MODEL_DEPLOYMENTS: modelDeployments
  KEY_VAULT_URL: vault.outputs.url
  KEY_LOOKUP: keyLookup
  KEY_SECRET_PREFIX: keySecretPrefix
  CORS_ALLOWED_ORIGINS: corsAllowedOrigins
  CORS_ALLOW_CREDENTIALS: string(corsAllowCredentials)
  AZURE_CLIENT_ID: identity.outputs.clientId
  READYZ_DETAILS: string(readyzDetails)
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
    delegation: (plan == 'flex') ? 'Microsoft.App/environments' : 'Microsoft.Web/serverFarms'
  }
}

module endpoints 'modules/endpoints.bicep' = if (isPrivate) {
  name: 'endpoints'
  scope: group
  params: {
    location: location
    tags: tags
    subnetId: makesNetwork ? virtualNetwork!.outputs.endpointSubnetId : endpointSubnetId
    virtualNetworkId: makesNetwork ? virtualNetwork!.outputs.id : virtualNetworkId
    vaultName: vault.outputs.name
    storageName: storage.outputs.name
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
    plan: plan
    instanceMemoryMB: instanceMemoryMB
    maximumInstanceCount: maximumInstanceCount
    httpPerInstanceConcurrency: httpPerInstanceConcurrency
    alwaysReady: alwaysReady
    zoneRedundant: zoneRedundant
    identityId: identity.outputs.id
    identityClientId: identity.outputs.clientId
    storageName: storage.outputs.name
    deploymentContainerName: storage.outputs.deploymentContainerName
    insightsName: monitoring.outputs.insightsName
    corsAllowedOrigins: empty(corsAllowedOrigins) ? [] : split(replace(corsAllowedOrigins, ' ', ''), ',')
    corsAllowCredentials: corsAllowCredentials
    subnetId: isIntegrated ? (makesNetwork ? virtualNetwork!.outputs.appSubnetId : appSubnetId) : ''
    settings: shimSettings
  }
  dependsOn: [
    rbac
    endpoints
  ]
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

output AZURE_LOCATION string = location
output AZURE_TENANT_ID string = tenant().tenantId
output AZURE_RESOURCE_GROUP string = group.name
output AZURE_FUNCTION_NAME string = app.outputs.name
output KEY_VAULT_NAME string = vault.outputs.name
output KEY_VAULT_URL string = vault.outputs.url
output SHIM_URL string = app.outputs.url
output SHIM_OPENAI_BASE_URL string = '${app.outputs.url}/openai/v1'

// Lets the app read subscriptions and their keys of one APIM service, for the timer that imports them. In the
// resource group of that service.

@description('Name of the APIM service.')
@minLength(1)
param apimName string

@description('Principal id of the identity of the app.')
param appPrincipalId string

@description('What makes names unique.')
@minLength(5)
param token string

resource apim 'Microsoft.ApiManagement/service@2024-05-01' existing = {
  name: apimName
}

// No built-in role lists keys without also being allowed to change the service.
resource keyReader 'Microsoft.Authorization/roleDefinitions@2022-04-01' = {
  name: guid(resourceGroup().id, token, 'apim subscription key reader')
  properties: {
    roleName: 'APIM subscription key reader (${token})'
    description: 'Reads subscriptions of an APIM service, what they belong to, and their keys.'
    type: 'CustomRole'
    permissions: [
      {
        actions: [
          'Microsoft.ApiManagement/service/read'
          'Microsoft.ApiManagement/service/apis/read'
          'Microsoft.ApiManagement/service/apis/products/read'
          'Microsoft.ApiManagement/service/products/read'
          'Microsoft.ApiManagement/service/users/read'
          'Microsoft.ApiManagement/service/subscriptions/read'
          'Microsoft.ApiManagement/service/subscriptions/listSecrets/action'
        ]
        notActions: []
        dataActions: []
        notDataActions: []
      }
    ]
    assignableScopes: [
      resourceGroup().id
    ]
  }
}

resource appReadsKeys 'Microsoft.Authorization/roleAssignments@2022-04-01' = {
  name: guid(apim.id, appPrincipalId, keyReader.id)
  scope: apim
  properties: {
    roleDefinitionId: keyReader.id
    principalId: appPrincipalId
    principalType: 'ServicePrincipal'
  }
}

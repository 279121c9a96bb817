// A v1 API whose subscription key header is Authorization, and for each subscription a twin whose keys are
// `Bearer <key>`: callers keep their keys and change the base URL alone.

@description('The API Management service, in the resource group of this deployment.')
param serviceName string

@description('Name and display name of the new API.')
param apiName string

@description('Where it is served, below the gateway.')
param apiPath string

@description('The v1 API of Azure OpenAI, for example https://contoso.openai.azure.com/openai/v1.')
@minLength(1)
param backendUrl string

@description('Products that the new API becomes part of: those of the subscriptions below.')
param products array

@description('Subscriptions that get a twin: id, displayName, and scope as the end of a resource id, `apis` for this API.')
param subscriptions array

// https://learn.microsoft.com/azure/templates/microsoft.apimanagement/service/apis
resource service 'Microsoft.ApiManagement/service@2024-05-01' existing = {
  name: serviceName
}

resource api 'Microsoft.ApiManagement/service/apis@2024-05-01' = {
  parent: service
  name: apiName
  properties: {
    displayName: apiName
    path: apiPath
    protocols: [
      'https'
    ]
    serviceUrl: backendUrl
    subscriptionRequired: true
    subscriptionKeyParameterNames: {
      header: 'Authorization'
      query: 'subscription-key'
    }
  }
}

resource operations 'Microsoft.ApiManagement/service/apis/operations@2024-05-01' = [for method in [
  'GET'
  'POST'
  'DELETE'
]: {
  parent: api
  name: toLower(method)
  properties: {
    displayName: method
    method: method
    urlTemplate: '/*'
  }
}]

resource policy 'Microsoft.ApiManagement/service/apis/policies@2024-05-01' = {
  parent: api
  name: 'policy'
  properties: {
    format: 'xml'
    value: loadTextContent('policy.xml')
  }
}

resource memberships 'Microsoft.ApiManagement/service/products/apis@2024-05-01' = [for product in products: {
  name: '${serviceName}/${product}/${apiName}'
  dependsOn: [
    api
  ]
}]

// The keys are read by Resource Manager while it deploys; they are in no file, parameter or output.
resource originals 'Microsoft.ApiManagement/service/subscriptions@2024-05-01' existing = [for subscription in subscriptions: {
  parent: service
  name: subscription.id
}]

resource twins 'Microsoft.ApiManagement/service/subscriptions@2024-05-01' = [for (subscription, index) in subscriptions: {
  parent: service
  name: '${subscription.id}-bearer'
  properties: {
    displayName: '${subscription.displayName} (Bearer)'
    scope: '${service.id}/${subscription.scope}'
    primaryKey: 'Bearer ${originals[index].listSecrets().primaryKey}'
    secondaryKey: 'Bearer ${originals[index].listSecrets().secondaryKey}'
    state: 'active'
  }
  dependsOn: [
    api
  ]
}]

output baseUrl string = '${service.properties.gatewayUrl}/${apiPath}'

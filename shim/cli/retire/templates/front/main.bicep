// An API without a required subscription in front of the legacy one: its policy moves the key from Authorization to the
// header that the legacy API reads, and calls that API through the gateway itself, which checks the key.

@description('The API Management service, in the resource group of this deployment.')
param serviceName string

@description('Name and display name of the new API.')
param apiName string

@description('Where it is served, below the gateway.')
param apiPath string

@description('The legacy API, through the gateway.')
@minLength(1)
param legacyUrl string

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
    serviceUrl: legacyUrl
    subscriptionRequired: false
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

output baseUrl string = '${service.properties.gatewayUrl}/${apiPath}'

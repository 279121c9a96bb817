// A virtual network with a subnet for the app's outbound calls and one for private endpoints.

@description('What makes names unique.')
@minLength(5)
param token string

@description('Azure region.')
param location string

@description('Tags.')
param tags object

@description('Address ranges of the subnets of the app and of the private endpoints; a /26 and a /27 at least.')
@minLength(2)
@maxLength(2)
param addressPrefixes array

resource guard 'Microsoft.Network/networkSecurityGroups@2024-05-01' = {
  name: 'nsg-${token}'
  location: location
  tags: tags
  properties: {
    securityRules: []
  }
}

resource network 'Microsoft.Network/virtualNetworks@2024-05-01' = {
  name: 'vnet-${token}'
  location: location
  tags: tags
  properties: {
    addressSpace: {
      addressPrefixes: addressPrefixes
    }
    subnets: [
      {
        name: 'app'
        properties: {
          addressPrefix: addressPrefixes[0]
          networkSecurityGroup: {
            id: guard.id
          }
          delegations: [
            {
              name: 'app'
              properties: {
                serviceName: 'Microsoft.App/environments'
              }
            }
          ]
        }
      }
      {
        name: 'endpoints'
        properties: {
          addressPrefix: addressPrefixes[1]
          networkSecurityGroup: {
            id: guard.id
          }
          privateEndpointNetworkPolicies: 'Enabled'
        }
      }
    ]
  }
}

output id string = network.id
output appSubnetId string = '${network.id}/subnets/app'
output endpointSubnetId string = '${network.id}/subnets/endpoints'

// Private endpoints for some resources, with the DNS zones that lead to them: new ones, or those of a central group.

@description('Azure region.')
param location string

@description('Tags.')
param tags object

@description('Subnet of the endpoints.')
@minLength(1)
param subnetId string

@description('Virtual network in which the names must resolve to the endpoints.')
@minLength(1)
param virtualNetworkId string

@description('Resource group with existing zones, linked to the networks already; empty to create zones and links here.')
param zonesGroupId string

@description('What gets an endpoint: name (the sub-resource, as private endpoints call it), resourceId, zone.')
param targets array

// A list that is empty where nothing is to be created: checkov and the tests parse no condition inside a loop.
var newZones = empty(zonesGroupId) ? targets : []
var zoneScope = empty(zonesGroupId) ? resourceGroup().id : zonesGroupId

resource zones 'Microsoft.Network/privateDnsZones@2024-06-01' = [for target in newZones: {
  name: target.zone
  location: 'global'
  tags: tags
}]

resource links 'Microsoft.Network/privateDnsZones/virtualNetworkLinks@2024-06-01' = [for (target, index) in newZones: {
  parent: zones[index]
  name: 'link-${uniqueString(virtualNetworkId)}'
  location: 'global'
  properties: {
    registrationEnabled: false
    virtualNetwork: {
      id: virtualNetworkId
    }
  }
}]

resource endpoints 'Microsoft.Network/privateEndpoints@2024-05-01' = [for target in targets: {
  name: 'pe-${target.name}-${uniqueString(target.resourceId)}'
  location: location
  tags: tags
  properties: {
    subnet: {
      id: subnetId
    }
    privateLinkServiceConnections: [
      {
        name: target.name
        properties: {
          privateLinkServiceId: target.resourceId
          groupIds: [
            target.name
          ]
        }
      }
    ]
  }
}]

resource records 'Microsoft.Network/privateEndpoints/privateDnsZoneGroups@2024-05-01' = [for (target, index) in targets: {
  parent: endpoints[index]
  name: 'default'
  properties: {
    privateDnsZoneConfigs: [
      {
        name: target.name
        properties: {
          privateDnsZoneId: '${zoneScope}/providers/Microsoft.Network/privateDnsZones/${target.zone}'
        }
      }
    ]
  }
  dependsOn: [
    links
  ]
}]

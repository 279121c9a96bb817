// Private endpoints, and the DNS zones that lead to them, for the vault and for the storage of the Functions host.

@description('Azure region.')
param location string

@description('Tags.')
param tags object

@description('Subnet of the endpoints.')
@minLength(1)
param subnetId string

@description('Virtual network in which the names must lead to the endpoints.')
@minLength(1)
param virtualNetworkId string

@description('The vault.')
param vaultName string

@description('The storage account.')
param storageName string

resource vault 'Microsoft.KeyVault/vaults@2025-05-01' existing = {
  name: vaultName
}

resource storage 'Microsoft.Storage/storageAccounts@2025-06-01' existing = {
  name: storageName
}

// https://learn.microsoft.com/azure/private-link/private-endpoint-dns
var targets = [
  {
    name: 'vault'
    resourceId: vault.id
    group: 'vault'
    zone: 'privatelink.vaultcore.azure.net'
  }
  {
    name: 'blob'
    resourceId: storage.id
    group: 'blob'
    zone: 'privatelink.blob.${environment().suffixes.storage}'
  }
  {
    name: 'table'
    resourceId: storage.id
    group: 'table'
    zone: 'privatelink.table.${environment().suffixes.storage}'
  }
]

resource zones 'Microsoft.Network/privateDnsZones@2024-06-01' = [for target in targets: {
  name: target.zone
  location: 'global'
  tags: tags
}]

resource links 'Microsoft.Network/privateDnsZones/virtualNetworkLinks@2024-06-01' = [for (target, index) in targets: {
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
            target.group
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
          privateDnsZoneId: zones[index].id
        }
      }
    ]
  }
}]

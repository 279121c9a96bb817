// The Key Vault that holds the subscription keys.

@description('Name of the vault.')
@minLength(3)
@maxLength(24)
param name string

@description('Azure region.')
param location string

@description('Tags.')
param tags object

@description('Whether only private endpoints, and the addresses below, reach the vault.')
param closed bool

@description('Addresses or ranges that reach a closed vault.')
param allowedAddresses array

@description('Workspace for the audit log: who read or wrote which secret.')
param workspaceId string

var publicNetworkAccess = (closed && empty(allowedAddresses)) ? 'Disabled' : 'Enabled'

resource vault 'Microsoft.KeyVault/vaults@2025-05-01' = {
  // checkov:skip=CKV_AZURE_109:without a virtual network the app has no address of its own to let in; closed by the parameter network
  // checkov:skip=CKV_AZURE_189:disabled by the parameter network, in an expression that checkov does not evaluate
  name: name
  location: location
  tags: tags
  properties: {
    tenantId: subscription().tenantId
    sku: {
      family: 'A'
      name: 'standard'
    }
    enableRbacAuthorization: true
    enableSoftDelete: true
    softDeleteRetentionInDays: 90
    enablePurgeProtection: true
    publicNetworkAccess: publicNetworkAccess
    networkAcls: {
      bypass: 'None'
      defaultAction: closed ? 'Deny' : 'Allow'
      ipRules: [for address in allowedAddresses: {
        value: address
      }]
    }
  }
}

resource audit 'Microsoft.Insights/diagnosticSettings@2021-05-01-preview' = {
  name: 'audit'
  scope: vault
  properties: {
    workspaceId: workspaceId
    logs: [
      {
        category: 'AuditEvent'
        enabled: true
      }
    ]
  }
}

output id string = vault.id
output name string = vault.name
output url string = 'https://${vault.name}${environment().suffixes.keyvaultDns}'

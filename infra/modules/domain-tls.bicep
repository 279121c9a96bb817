// TLS for a host name that the app has a certificate for.

@description('Name of the app.')
param appName string

@description('The host name.')
param hostName string

@description('Thumbprint of the certificate.')
param thumbprint string

resource app 'Microsoft.Web/sites@2025-03-01' existing = {
  // checkov:skip=CKV_AZURE_222:the app is made in app.bicep
  name: appName
}

resource binding 'Microsoft.Web/sites/hostNameBindings@2025-03-01' = {
  parent: app
  name: hostName
  properties: {
    hostNameType: 'Verified'
    customHostNameDnsRecordType: 'CName'
    sslState: 'SniEnabled'
    thumbprint: thumbprint
  }
}

// A host name of one's own with a managed certificate. The CNAME and the TXT record asuid.<name> must be there already.
// Certificates of Flex Consumption belong to the site (siteScopedCertificatesEnabled, set when it is created):
// https://learn.microsoft.com/azure/azure-functions/flex-consumption-how-to#configure-site-scoped-certificates

@description('Name of the app.')
param appName string

@description('Azure region of the app.')
param location string

@description('Tags.')
param tags object

@description('The host name.')
@minLength(4)
param hostName string

@description('Whether an earlier deployment has bound it: a new binding begins without TLS, which callers would notice.')
param isBound bool

resource app 'Microsoft.Web/sites@2025-03-01' existing = {
  // checkov:skip=CKV_AZURE_222:the app is made in app.bicep
  name: appName
}

resource name 'Microsoft.Web/sites/hostNameBindings@2025-03-01' = if (!isBound) {
  parent: app
  name: hostName
  properties: {
    hostNameType: 'Verified'
    customHostNameDnsRecordType: 'CName'
    sslState: 'Disabled'
  }
}

// It is issued for a name that is bound, in some minutes, and renewed by the platform.
resource certificate 'Microsoft.Web/sites/certificates@2025-03-01' = {
  parent: app
  name: replace(hostName, '.', '-')
  location: location
  tags: tags
  properties: {
    canonicalName: hostName
  }
  dependsOn: [
    name
  ]
}

// In a module, since one file cannot state the same binding twice.
module tls 'domain-tls.bicep' = {
  name: 'domain-tls'
  params: {
    appName: appName
    hostName: hostName
    thumbprint: certificate.properties.thumbprint
  }
}

// The workbook: what docs/observability.md has as queries, in tiles.

@description('Azure region.')
param location string

@description('Tags.')
param tags object

@description('Workspace with the metrics.')
param workspaceId string

resource workbook 'Microsoft.Insights/workbooks@2023-06-01' = {
  // The platform wants a GUID for a name.
  name: guid(workspaceId, 'apim-openai-shim')
  location: location
  tags: tags
  kind: 'shared'
  properties: {
    displayName: 'APIM OpenAI shim'
    category: 'workbook'
    version: 'Notebook/1.0'
    sourceId: workspaceId
    serializedData: loadTextContent('../workbook.json')
  }
}

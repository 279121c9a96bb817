// Alert rules over the metrics: what an operator wants to be told of before callers tell them.

@description('What makes names unique.')
@minLength(5)
param token string

@description('Azure region.')
param location string

@description('Tags.')
param tags object

@description('Workspace with the logs.')
param workspaceId string

@description('Mail address that alerts go to; empty for none.')
param email string

// Metrics, which are not sampled: docs/observability.md says what each is.
var rules = [
  {
    name: '5xx-rate'
    title: 'More than 5 % of calls answered with 5xx'
    severity: 1
    query: 'AppMetrics | where Name == "gen_ai.server.request.duration" | extend status = tostring(Properties["apim_shim.status_class"]) | summarize calls = sum(ItemCount), failed = sumif(ItemCount, status == "5xx") | where calls > 20 and failed * 100 > calls * 5'
  }
  {
    name: 'vault-failures'
    title: 'Subscription keys could not be checked'
    severity: 1
    query: 'AppMetrics | where Name == "apim_shim.vault.duration" and isnotempty(tostring(Properties["error.type"])) | summarize failures = sum(ItemCount) | where failures > 5'
  }
  {
    name: '401-storm'
    title: 'Many calls with keys that are not good'
    severity: 2
    query: 'AppMetrics | where Name == "gen_ai.server.request.duration" and tostring(Properties["error.type"]) in ("invalid_api_key", "malformed_api_key", "missing_api_key") | summarize refused = sum(ItemCount) | where refused > 300'
  }
  {
    name: 'slow-first-event'
    title: 'Streams wait more than 20 s for their first event'
    severity: 2
    query: 'AppMetrics | where Name == "gen_ai.server.time_to_first_token" | summarize streams = sum(ItemCount), seconds = sum(Sum) | where streams > 10 and seconds > streams * 20'
  }
]

resource receivers 'Microsoft.Insights/actionGroups@2023-01-01' = if (!empty(email)) {
  name: 'ag-${token}'
  location: 'global'
  tags: tags
  properties: {
    groupShortName: 'shim'
    enabled: true
    emailReceivers: [
      {
        name: 'operator'
        emailAddress: email
        useCommonAlertSchema: true
      }
    ]
  }
}

resource alerts 'Microsoft.Insights/scheduledQueryRules@2023-12-01' = [for rule in rules: {
  name: 'alert-${rule.name}-${token}'
  location: location
  tags: tags
  kind: 'LogAlert'
  properties: {
    displayName: rule.title
    description: rule.title
    severity: rule.severity
    enabled: true
    // A new workspace has no tables yet, and a rule that names one would be refused.
    skipQueryValidation: true
    evaluationFrequency: 'PT5M'
    windowSize: 'PT15M'
    scopes: [
      workspaceId
    ]
    criteria: {
      allOf: [
        {
          query: rule.query
          timeAggregation: 'Count'
          operator: 'GreaterThan'
          threshold: 0
          failingPeriods: {
            numberOfEvaluationPeriods: 1
            minFailingPeriodsToAlert: 1
          }
        }
      ]
    }
    autoMitigate: true
    actions: {
      actionGroups: empty(email) ? [] : [
        receivers.id
      ]
    }
  }
}]

# Before `azd provision` on Windows, in PowerShell 7 or 5.1; the comments are in preprovision.sh.
$ErrorActionPreference = 'Stop'

function Get-Candidates {
    if (-not (Get-Command az -ErrorAction SilentlyContinue)) { return }
    $subscription = @()
    if ($env:AZURE_SUBSCRIPTION_ID) { $subscription = @('--subscription', $env:AZURE_SUBSCRIPTION_ID) }
    $services = az apim list @subscription --query '[].{name: name, group: resourceGroup, gateway: gatewayUrl}' --output json | ConvertFrom-Json
    foreach ($service in $services) {
        $paths = az apim api list @subscription --service-name $service.name --resource-group $service.group --query '[].path' --output tsv
        foreach ($path in $paths) { "$($service.gateway)/$path" }
    }
}

function Test-NoPrompt {
    if ([Console]::IsInputRedirected) { return $true }
    if ("$env:AZD_NON_INTERACTIVE$env:CI" -match '^(1|true)') { return $true }
    $process = $PID
    foreach ($ancestor in 'parent', 'grandparent') {
        $process = (Get-CimInstance Win32_Process -Filter "ProcessId=$process").ParentProcessId
        $line = (Get-CimInstance Win32_Process -Filter "ProcessId=$process").CommandLine
        if (" $line " -match ' --(no-prompt|non-interactive) ') { return $true }
    }
    return $false
}

$asked = $false
if (-not $env:APIM_BASE_URL) {
    $found = @(Get-Candidates)
    if ($found) {
        Write-Host 'APIs of the APIM services in this subscription:'
        for ($number = 1; $number -le $found.Count; $number++) { Write-Host ('{0,4}  {1}' -f $number, $found[$number - 1]) }
    }
    if (Test-NoPrompt) {
        throw 'APIM_BASE_URL is not set: azd env set APIM_BASE_URL https://<apim>.azure-api.net/<api>/openai'
    }
    $question = 'APIM_BASE_URL'
    if ($found) { $question += ', or a number from the list' }
    if ($found.Count -eq 1) { $question += " [$($found[0])]" }
    Write-Host 'Base URL of the APIM API; calls go to <base>/deployments/<deployment>/chat/completions.'
    $typed = Read-Host $question
    if (-not $typed -and $found.Count -eq 1) { $typed = $found[0] }
    if ($typed -match '^\d+$') {
        $typed = if ([int]$typed -ge 1 -and [int]$typed -le $found.Count) { $found[[int]$typed - 1] } else { '' }
    }
    $env:APIM_BASE_URL = $typed
    $asked = $true
}

if ("$env:APIM_BASE_URL" -notmatch '^https://.') {
    throw 'APIM_BASE_URL must begin with https://, since keys travel to it: azd env set APIM_BASE_URL https://...'
}
if ($asked) {
    azd env set APIM_BASE_URL $env:APIM_BASE_URL
    if ($LASTEXITCODE) { exit $LASTEXITCODE }
}

$origins = "$env:CORS_ORIGINS"
if ($origins -eq '*' -and "$env:CORS_CREDENTIALS" -eq 'true') {
    throw 'CORS_CREDENTIALS=true cannot go with CORS_ORIGINS=*, which browsers refuse: name the origins'
}
if ($origins -ne '*' -and $origins.Contains('*')) {
    throw "Flex Consumption takes exact origins, or * alone, in CORS_ORIGINS: name them, or see 'Your own plan' in docs/deploy.md"
}

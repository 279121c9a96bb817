# Before `azd provision` on Windows; preprovision.sh elsewhere says why.
$ErrorActionPreference = 'Stop'

if (-not $env:APIM_BASE_URL) {
    if (Get-Command az -ErrorAction SilentlyContinue) {
        $services = az apim list --query "[].{name: name, group: resourceGroup, gateway: gatewayUrl}" --output json | ConvertFrom-Json
        foreach ($service in $services) {
            $paths = az apim api list --service-name $service.name --resource-group $service.group --query "[].path" --output tsv
            foreach ($path in $paths) { Write-Host "  $($service.gateway)/$path" }
        }
    }
    Write-Host 'Base URL of the APIM API; calls go to <base>/deployments/<deployment>/chat/completions.'
    $env:APIM_BASE_URL = Read-Host 'APIM_BASE_URL'
    azd env set APIM_BASE_URL $env:APIM_BASE_URL
}

if ($env:APIM_BASE_URL -notmatch '^https://.') {
    throw 'APIM_BASE_URL must begin with https://, since keys travel to it: azd env set APIM_BASE_URL https://...'
}

$plan = if ($env:SHIM_PLAN) { $env:SHIM_PLAN } else { 'flex' }
$origins = "$env:CORS_ALLOWED_ORIGINS"
if ($plan -eq 'flex' -and $origins -ne '*' -and $origins.Contains('*')) {
    throw 'On the flex plan CORS_ALLOWED_ORIGINS takes exact origins, or * alone: name them, or azd env set SHIM_PLAN premium'
}

# After `azd deploy` on Windows, in PowerShell 7 or 5.1; the comments are in postdeploy.sh.
$ErrorActionPreference = 'Stop'

if (-not $env:SHIM_URL) { throw 'SHIM_URL is not set: run azd provision first' }
$attempts = if ($env:SHIM_READY_ATTEMPTS) { [int]$env:SHIM_READY_ATTEMPTS } else { 30 }
$pause = if ($env:SHIM_READY_PAUSE) { [int]$env:SHIM_READY_PAUSE } else { 10 }
$status = 0
$body = ''
foreach ($attempt in 1..$attempts) {
    try {
        $response = Invoke-WebRequest -Uri "$env:SHIM_URL/readyz" -UseBasicParsing -TimeoutSec 30
        $status = [int]$response.StatusCode
    } catch {
        # Both versions throw on a refusal; only 7 could be told not to.
        $status = if ($_.Exception.Response) { [int]$_.Exception.Response.StatusCode } else { 0 }
        $body = "$($_.ErrorDetails.Message)"
    }
    if ($status -eq 200) { break }
    if ($attempt -lt $attempts) { Start-Sleep -Seconds $pause }
}

if ($status -ne 200) {
    Write-Host "The shim is deployed but not ready ($status): $env:SHIM_URL/readyz said"
    Write-Host $body
    if ($env:SHIM_INBOUND -eq 'private' -or $env:SHIM_ALLOWED_ADDRESSES) {
        Write-Host 'SHIM_INBOUND or SHIM_ALLOWED_ADDRESSES may keep this machine out: ask from where callers are.'
    }
    $base = if ($env:APIM_BASE_URL) { $env:APIM_BASE_URL } else { '<base URL>' }
    throw "Find out more with: python -m shim doctor --shim-url $env:SHIM_URL --base-url $base"
}

$openai = if ($env:SHIM_OPENAI_BASE_URL) { $env:SHIM_OPENAI_BASE_URL } else { "$env:SHIM_URL/openai/v1" }
Write-Host @"
The shim is ready at $env:SHIM_URL.

    from openai import OpenAI

    client = OpenAI(base_url="$openai", api_key="<APIM subscription key>")
    print(client.chat.completions.create(model="gpt-4o", messages=[{"role": "user", "content": "Hello!"}]))

Keys come from Key Vault $($env:KEY_VAULT_URL): bring them in with python -m shim keys.
"@

# After `azd deploy` on Windows; postdeploy.sh elsewhere says why.
$ErrorActionPreference = 'Stop'

if (-not $env:SHIM_URL) { throw 'SHIM_URL is not set: run azd provision first' }
$status = 0
foreach ($attempt in 1..30) {
    $answer = Invoke-WebRequest -Uri "$env:SHIM_URL/readyz" -SkipHttpErrorCheck -TimeoutSec 30 -ErrorAction SilentlyContinue
    $status = $answer.StatusCode
    if ($status -eq 200) { break }
    Start-Sleep -Seconds 10
}

if ($status -ne 200) {
    throw "The shim is deployed but not ready ($status): $($answer.Content) Find out more with: python -m shim doctor --shim-url $env:SHIM_URL"
}

Write-Host @"
The shim is ready at $env:SHIM_URL.

    from openai import OpenAI

    client = OpenAI(base_url="$env:SHIM_URL/openai/v1", api_key="<APIM subscription key>")
    print(client.chat.completions.create(model="gpt-4o", messages=[{"role": "user", "content": "Hello!"}]))

Keys come from Key Vault $($env:KEY_VAULT_URL): bring them in with python -m shim keys.
"@

#!/bin/sh
# After `azd deploy`: asks the shim whether it is ready, and prints what clients need. postdeploy.ps1 does the same on
# Windows.
set -eu

: "${SHIM_URL:?SHIM_URL is not set: run azd provision first}"
attempts=${SHIM_READY_ATTEMPTS:-30}
body=$(mktemp)
trap 'rm -f "$body"' EXIT

# Role assignments take some minutes to reach the vault, and the first start is a cold one.
status=000
while [ "$attempts" -gt 0 ]; do
    status=$(curl --silent --max-time 30 --output "$body" --write-out '%{http_code}' "$SHIM_URL/readyz" || true)
    [ "$status" = 200 ] && break
    attempts=$((attempts - 1))
    [ "$attempts" -gt 0 ] && sleep "${SHIM_READY_PAUSE:-10}"
done

if [ "$status" != 200 ]; then
    echo "The shim is deployed but not ready ($status): $SHIM_URL/readyz said" >&2
    cat "$body" >&2
    echo >&2
    if [ "${SHIM_INBOUND:-public}" = private ] || [ -n "${SHIM_ALLOWED_ADDRESSES:-}" ]; then
        echo "SHIM_INBOUND or SHIM_ALLOWED_ADDRESSES may keep this machine out: ask from where callers are." >&2
    fi
    echo "Find out more with: python -m shim doctor --shim-url $SHIM_URL --base-url ${APIM_BASE_URL:-<base URL>}" >&2
    exit 1
fi

cat <<END
The shim is ready at $SHIM_URL.

    from openai import OpenAI

    client = OpenAI(base_url="${SHIM_OPENAI_BASE_URL:-$SHIM_URL/openai/v1}", api_key="<APIM subscription key>")
    print(client.chat.completions.create(model="gpt-4o", messages=[{"role": "user", "content": "Hello!"}]))

Keys come from Key Vault ${KEY_VAULT_URL:-}: bring them in with python -m shim keys.
END

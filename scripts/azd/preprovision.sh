#!/bin/sh
# Before `azd provision`: finds or asks for the base URL of the APIM API, and refuses what cannot work.
set -eu

have() {
    command -v "$1" >/dev/null 2>&1
}

# The gateway's URL and every API's path, one base URL per line, of the APIM services of this subscription.
candidates() {
    have az || return 0
    az apim list --query "[].[name, resourceGroup, gatewayUrl]" --output tsv 2>/dev/null |
        while read -r name group gateway; do
            az apim api list --service-name "$name" --resource-group "$group" --query "[].path" --output tsv 2>/dev/null |
                while read -r path; do
                    echo "$gateway/$path"
                done
        done
}

if [ -z "${APIM_BASE_URL:-}" ]; then
    if [ ! -t 0 ]; then
        echo "APIM_BASE_URL is not set: azd env set APIM_BASE_URL https://<apim>.azure-api.net/<api>/openai" >&2
        exit 1
    fi
    found=$(candidates)
    if [ -n "$found" ]; then
        echo "APIs of the APIM services in this subscription:"
        echo "$found" | sed 's/^/  /'
    fi
    # With a single one, Enter takes it.
    single=$(echo "$found" | awk 'END { if (NR == 1) print }')
    echo "Base URL of the APIM API; calls go to <base>/deployments/<deployment>/chat/completions."
    printf "APIM_BASE_URL%s: " "${single:+ [$single]}"
    read -r APIM_BASE_URL
    APIM_BASE_URL=${APIM_BASE_URL:-$single}
    azd env set APIM_BASE_URL "$APIM_BASE_URL"
fi

case $APIM_BASE_URL in
https://?*) ;;
*)
    echo "APIM_BASE_URL must begin with https://, since keys travel to it: azd env set APIM_BASE_URL https://…" >&2
    exit 1
    ;;
esac

# On Flex the platform answers preflights, and it compares origins letter by letter.
case "${SHIM_PLAN:-flex}:${CORS_ALLOWED_ORIGINS:-}" in
flex:\*) ;;
flex:*\**)
    echo "On the flex plan CORS_ALLOWED_ORIGINS takes exact origins, or * alone: name them, or azd env set SHIM_PLAN premium" >&2
    exit 1
    ;;
esac

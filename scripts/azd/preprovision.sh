#!/bin/sh
# Before `azd provision`, also as a part of `azd up`: asks for the base URL of the APIM API where it is not set yet, and
# refuses settings that cannot work. By then `azd up` has asked for subscription and region. preprovision.ps1 does the
# same on Windows.
set -eu

fail() {
    echo "$1" >&2
    exit 1
}

# The gateway's URL and every API's path, one base URL per line, of the APIM services of this subscription.
candidates() {
    command -v az >/dev/null 2>&1 || return 0
    set -- ${AZURE_SUBSCRIPTION_ID:+--subscription "$AZURE_SUBSCRIPTION_ID"}
    az apim list "$@" --query "[].[name, resourceGroup, gatewayUrl]" --output tsv 2>/dev/null </dev/null |
        while read -r name group gateway; do
            az apim api list "$@" --service-name "$name" --resource-group "$group" \
                --query "[].path" --output tsv 2>/dev/null </dev/null |
                while read -r path; do
                    echo "$gateway/$path"
                done
        done
}

# azd gives hooks its terminal even under --no-prompt, and says nothing of that flag to them (azure-dev,
# cli/azd/pkg/ext/hooks_runner.go). It is the parent of the shell that runs this, or the parent's parent.
no_prompt() {
    [ -t 0 ] || return 0
    case ${AZD_NON_INTERACTIVE:-}${CI:-} in
    1* | [Tt]rue*) return 0 ;;
    esac
    process=$PPID
    for _ in parent grandparent; do
        case " $(ps -o args= -p "$process" 2>/dev/null) " in
        *" --no-prompt "* | *" --non-interactive "*) return 0 ;;
        esac
        process=$(ps -o ppid= -p "$process" 2>/dev/null | tr -d ' ')
        [ -n "$process" ] || break
    done
    return 1
}

if [ -z "${APIM_BASE_URL:-}" ]; then
    found=$(candidates)
    if [ -n "$found" ]; then
        echo "APIs of the APIM services in this subscription:"
        echo "$found" | awk '{ printf "%4d  %s\n", NR, $0 }'
    fi
    if no_prompt; then
        fail "APIM_BASE_URL is not set: azd env set APIM_BASE_URL https://<apim>.azure-api.net/<api>/openai"
    fi
    # With a single one, Enter takes it.
    single=$(echo "$found" | awk 'END { if (NR == 1) print }')
    echo "Base URL of the APIM API; calls go to <base>/deployments/<deployment>/chat/completions."
    printf "APIM_BASE_URL%s%s: " "${found:+, or a number from the list}" "${single:+ [$single]}"
    read -r APIM_BASE_URL
    APIM_BASE_URL=${APIM_BASE_URL:-$single}
    case $APIM_BASE_URL in
    *[!0-9]* | '') ;;
    *) APIM_BASE_URL=$(echo "$found" | awk -v chosen="$APIM_BASE_URL" 'NR == chosen') ;;
    esac
    asked=yes
fi

case $APIM_BASE_URL in
https://?*) ;;
*) fail "APIM_BASE_URL must begin with https://, since keys travel to it: azd env set APIM_BASE_URL https://..." ;;
esac
[ -z "${asked:-}" ] || azd env set APIM_BASE_URL "$APIM_BASE_URL"

# On Flex Consumption the platform answers preflights, and it compares origins letter by letter.
case ${CORS_ORIGINS:-} in
\*)
    case ${CORS_CREDENTIALS:-} in
    [Tt]rue) fail "CORS_CREDENTIALS=true cannot go with CORS_ORIGINS=*, which browsers refuse: name the origins" ;;
    esac
    ;;
*\**) fail "Flex Consumption takes exact origins, or * alone, in CORS_ORIGINS: name them, or see 'Your own plan' in docs/deploy.md" ;;
esac

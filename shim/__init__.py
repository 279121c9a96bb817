"""Takes OpenAI calls with a Bearer subscription key to an APIM API that wants it in `api-key`."""

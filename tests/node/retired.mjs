// What a caller of the `openai` package sees of a shim's end: of a served call, of a stream and of a refusal.
import OpenAI from "openai";

const { URL, KEY } = process.env;
const client = new OpenAI({ baseURL: URL, apiKey: KEY, maxRetries: 2 });
const call = { model: "gpt-4o", messages: [{ role: "user", content: "Hello" }] };
const told = (headers) => ["deprecation", "sunset", "link"].map((name) => headers.get(name));

async function outcome(options) {
  try {
    const { response } = await client.chat.completions.create({ ...call, ...options }).withResponse();
    return { status: response.status, told: told(response.headers) };
  } catch (error) {
    const { status, code, message, headers } = error;
    return { isApiError: error instanceof OpenAI.APIError, status, code, message, told: told(headers) };
  }
}

process.stdout.write(JSON.stringify([await outcome({}), await outcome({ stream: true })]));

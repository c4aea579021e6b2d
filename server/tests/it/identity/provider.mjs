// A certified OpenID provider on loopback, as the tests drive it: one JSON request a line on
// standard input, one JSON answer a line on standard output.
import { readFileSync } from 'node:fs';
import { createServer } from 'node:https';
import { createInterface } from 'node:readline';
import { SignJWT, exportJWK, exportSPKI, generateKeyPair, importJWK } from 'jose';
import Provider from 'oidc-provider';

const audience = 'https://zta.example';
const groups = { 'svc-research': ['g-research'], 'svc-stranger': ['g-other'] };
const keys = [];
let handle;

async function newKey(alg) {
  const { privateKey } = await generateKeyPair(alg, { extractable: true });
  return { ...(await exportJWK(privateKey)), kid: `key-${keys.length + 1}`, alg, use: 'sig' };
}

function start(issuer) {
  const provider = new Provider(issuer, {
    jwks: { keys },
    cookies: { keys: ['for-tests-only'] },
    clients: Object.keys(groups).map((id) => ({
      client_id: id,
      client_secret: 'for-tests-only',
      grant_types: ['client_credentials'],
      redirect_uris: [],
      response_types: [],
      token_endpoint_auth_method: 'client_secret_post',
    })),
    extraTokenClaims: (_, token) => ({ groups: groups[token.clientId], name: token.clientId }),
    features: {
      clientCredentials: { enabled: true },
      devInteractions: { enabled: false },
      resourceIndicators: {
        enabled: true,
        defaultResource: () => audience,
        getResourceServerInfo: () => ({
          scope: '',
          audience,
          accessTokenTTL: 300,
          accessTokenFormat: 'jwt',
          jwt: { sign: { alg: keys[0].alg } },
        }),
      },
    },
  });
  handle = provider.callback();
}

const counts = { jwks: 0, discovery: 0 };
let away = false;
const tls = { cert: readFileSync('web.pem'), key: readFileSync('web.key') };
const server = createServer(tls, (request, response) => {
  if (request.url === '/jwks') counts.jwks += 1;
  if (request.url.startsWith('/.well-known')) counts.discovery += 1;
  if (away) response.writeHead(503).end();
  else handle(request, response);
});
server.listen(0, '127.0.0.1', async () => {
  const issuer = `https://127.0.0.1:${server.address().port}`;
  keys.push(await newKey('RS256'));
  start(issuer);
  const acts = {
    // A new key comes first; the old ones stay published, or not.
    async rotate({ keep }) {
      const fresh = await newKey('ES256');
      if (!keep) keys.length = 0;
      keys.unshift(fresh);
      start(issuer);
      return {};
    },
    async away({ is }) {
      away = is;
      return {};
    },
    async public() {
      const { kty, n, e } = keys[0];
      return { pem: await exportSPKI(await importJWK({ kty, n, e, alg: 'RS256' }, 'RS256')) };
    },
    async counts() {
      return counts;
    },
    // A token as this provider would sign it for a person, or as it never would.
    async sign({ header, claims }) {
      const key = await importJWK(keys[0], keys[0].alg);
      const head = { alg: keys[0].alg, kid: keys[0].kid, typ: 'JWT', ...header };
      return { token: await new SignJWT({ iss: issuer, ...claims }).setProtectedHeader(head).sign(key) };
    },
  };
  console.log(JSON.stringify({ issuer }));
  createInterface({ input: process.stdin })
    .on('line', async (line) => {
      const { act, ...rest } = JSON.parse(line);
      try {
        console.log(JSON.stringify(await acts[act](rest)));
      } catch (error) {
        console.log(JSON.stringify({ error: String(error) }));
      }
    })
    .on('close', () => process.exit(0));
});

// Drives MQTT.js on behalf of test/e2e: commands come in on standard input, one
// JSON object a line; answers and events go out the same way.
//
//   → {"call":1,"client":"a","do":"dial","url":…,"version":5,"options":{…}}
//   ← {"call":1,"ok":{"sessionPresent":false}}      or {"call":1,"error":"…"}
//   ← {"client":"a","message":{"topic":…,"payload":base64,"qos":1,"retain":false,"v5":{…}}}
import { createInterface } from 'node:readline'
import mqtt from 'mqtt'

const clients = new Map()
const say = (line) => process.stdout.write(JSON.stringify(line) + '\n')
const bytes = (base64) => Buffer.from(base64 ?? '', 'base64')

// userProperties turns pairs into MQTT.js's form: an object, with an array where
// a name appears more than once.
function userProperties (pairs) {
  const found = {}
  for (const [name, value] of pairs) {
    found[name] = name in found ? [found[name], value].flat() : value
  }
  return found
}

function pairs (userProperties) {
  return Object.entries(userProperties ?? {}).flatMap(([name, values]) => [values].flat().map((value) => [name, value]))
}

function publishProperties (v5) {
  const properties = {}
  if (v5.responseTopic) properties.responseTopic = v5.responseTopic
  if (v5.correlationData) properties.correlationData = bytes(v5.correlationData)
  if (v5.contentType) properties.contentType = v5.contentType
  if (v5.topicAlias) properties.topicAlias = v5.topicAlias
  if (v5.user) properties.userProperties = userProperties(v5.user)
  return properties
}

function arrived (client, topic, payload, packet) {
  const p = packet.properties ?? {}
  say({
    client,
    message: {
      topic,
      payload: payload.toString('base64'),
      qos: packet.qos,
      retain: packet.retain,
      v5: {
        responseTopic: p.responseTopic,
        correlationData: p.correlationData?.toString('base64'),
        contentType: p.contentType,
        user: pairs(p.userProperties)
      }
    }
  })
}

function connectOptions ({ version, options }) {
  const found = {
    clientId: options.id,
    clean: !options.resume,
    protocolVersion: version,
    reconnectPeriod: 0, // a lost connection is an error here, not something to paper over
    properties: {}
  }
  if (version === 3) found.protocolId = 'MQIsdp'
  if (version === 5) {
    found.properties.topicAliasMaximum = 10 // MQTT.js then resolves what the broker abbreviates
    if (options.resume) found.properties.sessionExpiryInterval = options.sessionExpiry
  }
  if (options.will) found.will = { ...options.will, payload: bytes(options.will.payload) }
  return found
}

const actions = {
  dial (command) {
    return new Promise((resolve, reject) => {
      const client = mqtt.connect(command.url, connectOptions(command))
      clients.set(command.client, client)
      client.on('message', (...args) => arrived(command.client, ...args))
      client.on('error', reject)
      client.on('close', () => reject(new Error('closed before CONNACK')))
      client.on('connect', (connack) => resolve({ sessionPresent: connack.sessionPresent }))
    })
  },
  async subscribe ({ client, filter, qos }) {
    const granted = await clients.get(client).subscribeAsync(filter, { qos })
    return { qos: granted[0].qos }
  },
  async publish ({ client, version, message: m }) {
    const options = { qos: m.qos, retain: m.retain }
    if (version === 5) options.properties = publishProperties(m.v5)
    await clients.get(client).publishAsync(m.topic, bytes(m.payload), options)
  },
  async disconnect ({ client }) { await clients.get(client).endAsync() },
  async abort ({ client }) { await clients.get(client).endAsync(true) } // true: no DISCONNECT
}

createInterface({ input: process.stdin }).on('line', async (line) => {
  const command = JSON.parse(line)
  try {
    say({ call: command.call, ok: await actions[command.do](command) ?? {} })
  } catch (error) {
    say({ call: command.call, error: String(error) })
  }
}).on('close', () => process.exit(0))

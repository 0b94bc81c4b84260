#!/bin/sh
# watermill-sql 4.1 (Watermill's Pub/Sub on SQL databases, for Go), on MariaDB 10.11 (Debian 12) with its schema for MySQL:
# while a subscriber works on a message, nobody can publish to the topic. Its SELECT runs in a SERIALIZABLE transaction
# that is open until the handler is done, and locks the end of the table; an INSERT waits there for as long as the
# handler takes, and fails after innodb_lock_wait_timeout (50 s by default; here 3 s). And an acknowledgement is stored
# with the last of the up to 100 messages that were read at once: a subscriber whose context is cancelled after it has
# acknowledged two of three has all three delivered again.
#
# One would expect a slow handler to delay its own messages, not the senders, and Ack() to be kept. So handlers have to be
# fast, or hand the work on, and cope with a repetition of up to 99 messages; a publisher has to expect error 1205.
#
# Needs Debian 12 (amd64), its package sources, and go (1.25 or later). Takes about a minute, the first time more. Exits
# with 0 if it is as said.
set -eu
folder=$(mktemp -d)
pid=
trap '[ -z "$pid" ] || kill "$pid" 2>/dev/null || true; wait; rm -rf "$folder"' EXIT
trap 'exit 130' INT TERM HUP
cd "$folder"
cat > go.mod <<'GO'
module finding

go 1.25

require (
	github.com/ThreeDotsLabs/watermill v1.5.0
	github.com/ThreeDotsLabs/watermill-sql/v4 v4.1.2
	github.com/go-sql-driver/mysql v1.10.1
)
GO
cat > main.go <<'GO'
package main

import (
	"context"
	stdsql "database/sql"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/ThreeDotsLabs/watermill"
	"github.com/ThreeDotsLabs/watermill-sql/v4/pkg/sql"
	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/go-sql-driver/mysql"
)

const topic = "orders"

func must(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func subscribe(ctx context.Context, db *stdsql.DB) (*sql.Subscriber, <-chan *message.Message) {
	subscriber, err := sql.NewSubscriber(sql.BeginnerFromStdSQL(db), sql.SubscriberConfig{
		ConsumerGroup:    "workers",
		SchemaAdapter:    sql.DefaultMySQLSchema{},
		OffsetsAdapter:   sql.DefaultMySQLOffsetsAdapter{},
		InitializeSchema: true,
	}, watermill.NopLogger{})
	must(err)
	messages, err := subscriber.Subscribe(ctx, topic)
	must(err)
	return subscriber, messages
}

func main() {
	db, err := stdsql.Open("mysql", "root@unix("+os.Args[1]+")/test?parseTime=true")
	must(err)
	for tries := 0; db.Ping() != nil && tries < 240; tries++ {
		time.Sleep(250 * time.Millisecond)
	}
	var version string
	must(db.QueryRow("SELECT VERSION()").Scan(&version))
	fmt.Println("watermill-sql 4.1.2, MariaDB", version)
	publisher, err := sql.NewPublisher(sql.BeginnerFromStdSQL(db), sql.PublisherConfig{
		SchemaAdapter:        sql.DefaultMySQLSchema{},
		AutoInitializeSchema: true,
	}, watermill.NopLogger{})
	must(err)
	publish := func(id string) error {
		return publisher.Publish(topic, message.NewMessage(id, message.Payload("{}")))
	}
	for _, id := range []string{"0", "1", "2"} {
		must(publish(id))
	}

	ctx, cancel := context.WithCancel(context.Background())
	first, messages := subscribe(ctx, db)
	working := <-messages
	start := time.Now()
	err = publish("refused")
	var refused *mysql.MySQLError
	blocked := errors.As(err, &refused) && refused.Number == 1205
	fmt.Printf("Published while a handler works: %v, after %.0f s\n", err, time.Since(start).Seconds())

	working.Ack()
	acknowledged := []string{working.UUID}
	working = <-messages
	working.Ack()
	acknowledged = append(acknowledged, working.UUID)
	working = <-messages // Acknowledged by nobody.
	cancel()
	must(first.Close())
	must(publish("3"))

	second, messages := subscribe(context.Background(), db)
	var again []string
	for len(again) < 4 {
		select {
		case working = <-messages:
			again = append(again, working.UUID)
			working.Ack()
		case <-time.After(30 * time.Second):
			must(errors.New("nothing comes"))
		}
	}
	must(second.Close())
	fmt.Println("Acknowledged before the first subscriber was cancelled:", acknowledged)
	fmt.Println("Delivered to the next one:", again)
	if !blocked || strings.Join(again, " ") != "0 1 2 3" || len(acknowledged) != 2 {
		must(errors.New("It is not as it was."))
	}
}
GO
GOFLAGS=-mod=mod go build -o finding . 2>build || { cat build >&2; exit 1; }
apt-get -o APT::Sandbox::User=root download mariadb-server-core=1:10.11.19-0+deb12u1 \
    mariadb-client-core=1:10.11.19-0+deb12u1 libnuma1 liburing2 libaio1 >/dev/null
for package in *.deb; do dpkg-deb --extract "$package" debian; done
export LD_LIBRARY_PATH="$folder/debian/usr/lib/x86_64-linux-gnu:$folder/debian/lib/x86_64-linux-gnu"
debian/usr/bin/mariadb-install-db --no-defaults --force --basedir="$folder/debian/usr" --datadir="$folder/data" \
    --user="$(id -un)" --auth-root-authentication-method=normal >log 2>&1 || { cat log >&2; exit 1; }
debian/usr/sbin/mariadbd --no-defaults --basedir="$folder/debian/usr" --datadir="$folder/data" --user="$(id -un)" \
    --skip-networking --socket="$folder/socket" --pid-file="$folder/pid" --innodb-lock-wait-timeout=3 >log 2>&1 &
pid=$!
./finding "$folder/socket"

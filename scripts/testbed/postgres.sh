# A PostgreSQL cluster in the bed's folder, durable as in production. Sourced by scripts/testbed.sh.

postgres_packages() { echo postgresql iproute2 procps util-linux; }

postgres_facts() {
  echo "postgres_url=postgresql://postgres:$(cat "$ROOM/etc/postgres.password")@127.0.0.1:$(cat "$ROOM/ports/postgres")/postgres"
}

postgres_bin() { find /usr/lib/postgresql/*/bin -maxdepth 0 | sort -V | tail -n 1; }

postgres_answers() {
  pid_of "$ROOM/postgres/data/postmaster.pid" >/dev/null &&
    PGPASSWORD=$(cat "$ROOM/etc/postgres.password") timeout 10 psql -X -h 127.0.0.1 -p "$(cat "$ROOM/ports/postgres")" \
      -U postgres -d postgres -c 'select 1' >/dev/null 2>&1
}

postgres_start() {
  local data=$ROOM/postgres/data bin try
  bin=$(postgres_bin)
  port postgres 20432 "$data/postmaster.pid"
  install -d -m 755 -o postgres -g postgres "$ROOM/postgres"
  if [[ ! -s $ROOM/etc/postgres.password ]]; then
    (umask 077 && head -c 18 /dev/urandom | base64 | tr -d '/+=\n' >"$ROOM/etc/postgres.password")
  fi
  if [[ ! -e $ROOM/postgres/made ]]; then
    rm -rf "$data"
    install -m 600 -o postgres "$ROOM/etc/postgres.password" "$ROOM/postgres/password"
    as_user postgres "$bin/initdb" -D "$data" -U postgres -E UTF8 --locale=C.UTF-8 --auth=scram-sha-256 \
      --pwfile="$ROOM/postgres/password" >"$ROOM/log/initdb.log" 2>&1 </dev/null ||
      die "initdb failed; see $ROOM/log/initdb.log"
    rm -f "$ROOM/postgres/password"
    : >"$ROOM/postgres/made"
  fi
  if pid_of "$data/postmaster.pid" >/dev/null; then postgres_stop; fi
  # After a killed postmaster its last children may hold the shared memory for a moment.
  for try in 1 2 3 4 5; do
    as_user postgres "$bin/pg_ctl" start -w -t 60 -s -D "$data" -l "$ROOM/postgres/log" -o "-p $port -c listen_addresses=127.0.0.1 \
-c unix_socket_directories='' -c max_connections=300 -c shared_buffers=256MB -c fsync=on" </dev/null && break
    sleep "$try"
  done
  until_true 10 postgres_answers || tail -n 5 "$ROOM/postgres/log" >&2
}

postgres_stop() {
  local data=$ROOM/postgres/data
  if pid_of "$data/postmaster.pid" >/dev/null; then
    as_user postgres "$(postgres_bin)/pg_ctl" stop -s -m fast -t 30 -D "$data" ||
      as_user postgres "$(postgres_bin)/pg_ctl" stop -s -m immediate -t 30 -D "$data"
  fi
}

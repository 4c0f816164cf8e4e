# Dovecot, serving maildirs that the bed's schedulers deliver into, each a mailbox of its own. Sourced by
# scripts/testbed.sh.
#
# Any name is an account once it has a maildir in $ROOM/mail; the password is the same for all. A test makes its own.
# One port speaks TLS from the start, with a certificate of the bed's own, which nobody knows who was not told.

dovecot_packages() { echo dovecot-imapd iproute2 openssl procps util-linux; }

dovecot_facts() {
  cat <<FACTS
imap_port=$(cat "$ROOM/ports/dovecot")
imaps_port=$(cat "$ROOM/ports/imaps")
imap_certificate=$ROOM/etc/imap.crt
imap_key=$ROOM/etc/imap.key
imap_password=$(cat "$ROOM/etc/imap.password")
mail_root=$ROOM/mail
mailer=$ROOM/etc/mailer
dovecot_conf=$ROOM/etc/dovecot.conf
dovecot_pid_file=$ROOM/run/dovecot/master.pid
FACTS
}

# What schedulers call as they would call `mail`. A copy, because they run as users who may not see the project.
install_mailer() {
  install -d -m 755 "$ROOM/mail"
  sed "s|@MAIL_ROOT@|$ROOM/mail|" "$PROJECT/scripts/testbed/mailer.sh" >"$ROOM/etc/.mailer.$$"
  chmod 755 "$ROOM/etc/.mailer.$$"
  mv "$ROOM/etc/.mailer.$$" "$ROOM/etc/mailer"
}

# A certificate that is its own authority, good for another day at least. Python 3.13 asks for a key usage.
make_certificate() {
  if openssl x509 -checkend 86400 -noout -in "$ROOM/etc/imap.crt" >/dev/null 2>&1; then return; fi
  (umask 077 && openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 365 -subj /CN=localhost \
    -addext "subjectAltName = IP:127.0.0.1, DNS:localhost" -addext "keyUsage = critical, digitalSignature, keyCertSign" \
    -keyout "$ROOM/etc/imap.key" -out "$ROOM/etc/imap.crt") >>"$ROOM/log/dovecot-start.log" 2>&1
  chmod 644 "$ROOM/etc/imap.crt"
}

# The server's greeting, from its own ports.
dovecot_answers() {
  pid_of "$ROOM/run/dovecot/master.pid" >/dev/null && [[ -x $ROOM/etc/mailer && -s $ROOM/ports/imaps ]] &&
    timeout 5 bash -c 'read -r line <"/dev/tcp/127.0.0.1/$0" && [[ $line == "* OK"* ]]' "$(cat "$ROOM/ports/dovecot")" 2>/dev/null &&
    printf 'a logout\r\n' | timeout 5 openssl s_client -quiet -verify_return_error -CAfile "$ROOM/etc/imap.crt" \
      -connect "127.0.0.1:$(cat "$ROOM/ports/imaps")" 2>/dev/null | grep '^\* OK' >/dev/null
}

dovecot_start() {
  local imap_port
  dovecot_stop
  port dovecot 20143 "$ROOM/run/dovecot/master.pid"
  imap_port=$port
  port imaps 20993 "$ROOM/run/dovecot/master.pid"
  if [[ ! -s $ROOM/etc/imap.password ]]; then
    (umask 077 && head -c 18 /dev/urandom | base64 | tr -d '/+=\n' >"$ROOM/etc/imap.password")
  fi
  make_certificate
  install_mailer
  install -d -m 755 "$ROOM/run/dovecot" "$ROOM/dovecot"
  (umask 077 && cat >"$ROOM/etc/dovecot.conf") <<CONF
base_dir = $ROOM/run/dovecot
state_dir = $ROOM/dovecot
log_path = $ROOM/log/dovecot.log
protocols = imap
listen = 127.0.0.1
ssl = yes
ssl_cert = <$ROOM/etc/imap.crt
ssl_key = <$ROOM/etc/imap.key
disable_plaintext_auth = no
auth_mechanisms = plain login
first_valid_uid = 500
mail_location = maildir:~
mailbox_idle_check_interval = 1 secs
mail_max_userip_connections = 50
service imap-login {
  inet_listener imap {
    port = $imap_port
  }
  inet_listener imaps {
    port = $port
    ssl = yes
  }
}
service stats {
  unix_listener stats-writer {
    mode = 0666
  }
}
passdb {
  driver = static
  args = password=$(cat "$ROOM/etc/imap.password")
}
userdb {
  driver = static
  args = uid=$BED_USER gid=$(id -gn "$BED_USER") home=$ROOM/mail/%n
}
namespace inbox {
  inbox = yes
}
CONF
  /usr/sbin/dovecot -c "$ROOM/etc/dovecot.conf" >>"$ROOM/log/dovecot-start.log" 2>&1 || tail -n 5 "$ROOM/log/dovecot-start.log" >&2
  until_true 10 dovecot_answers || tail -n 5 "$ROOM/log/dovecot.log" >&2
}

# The workers of a master that was killed end by themselves, a moment later: their port is free then. A master removes
# the file with its process id as its last deed: it has to be gone before the next one writes its own.
dovecot_stop() {
  local master name
  master=$(pid_of "$ROOM/run/dovecot/master.pid") || master=
  stop_pid "$ROOM/run/dovecot/master.pid"
  if [[ -n $master ]]; then until_true 10 eval "! kill -0 $master" || true; fi
  for name in dovecot imaps; do
    until_true 10 eval "! listens '$(cat "$ROOM/ports/$name" 2>/dev/null || echo 0)'" || true
  done
}

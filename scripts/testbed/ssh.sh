# OpenSSH with the limits that it ships with, for one user and one key. Sourced by scripts/testbed.sh.

# curl and wget: jobs on the host report with what is there
ssh_packages() { echo openssh-server openssh-client curl wget iproute2 procps util-linux; }

ssh_facts() {
  cat <<FACTS
ssh_host=127.0.0.1
ssh_port=$(cat "$ROOM/ports/ssh")
ssh_user=$BED_USER
ssh_key=$ROOM/etc/id_ed25519
known_hosts=$ROOM/etc/known_hosts
sshd_config=$ROOM/etc/sshd_config
sshd_log=$ROOM/log/sshd.log
sshd_pid_file=$ROOM/run/sshd.pid
scratch=$ROOM/scratch
FACTS
}

ssh_answers() {
  pid_of "$ROOM/run/sshd.pid" >/dev/null &&
    timeout 10 ssh -F none -n -p "$(cat "$ROOM/ports/ssh")" -i "$ROOM/etc/id_ed25519" -o BatchMode=yes \
      -o UserKnownHostsFile="$ROOM/etc/known_hosts" "$BED_USER@127.0.0.1" true 2>/dev/null
}

write_sshd_config() {
  # StrictModes looks at every folder above the key, and a clone may be anyone's; PAM could bring site policy.
  # SetEnv makes plain `sbatch` and `qsub` find the bed's clusters and no other; sshd takes its first line only.
  cat >"$ROOM/etc/sshd_config" <<CONF
ListenAddress 127.0.0.1
Port $(cat "$ROOM/ports/ssh")
HostKey $ROOM/etc/ssh_host_ed25519_key
PidFile $ROOM/run/sshd.pid
AllowUsers $BED_USER
AuthorizedKeysFile $ROOM/etc/authorized_keys
StrictModes no
PasswordAuthentication no
KbdInteractiveAuthentication no
PermitRootLogin no
PermitUserEnvironment no
UsePAM no
UseDNS no
PrintMotd no
Subsystem sftp internal-sftp
MaxSessions 10
MaxStartups 10:30:100
SetEnv $(cat "$ROOM"/etc/environment.* 2>/dev/null | xargs) SLURM_CONF=$ROOM/etc/slurm.conf
LogLevel VERBOSE
CONF
}

# Schedulers put what their commands need into etc/environment.NAME and then call this: sshd reads its configuration
# anew, and sessions go on.
ssh_environment() {
  local pid
  if [[ ! -s $ROOM/ports/ssh ]]; then return; fi
  cp "$ROOM/etc/sshd_config" "$ROOM/etc/sshd_config.old"
  write_sshd_config
  if ! cmp -s "$ROOM/etc/sshd_config" "$ROOM/etc/sshd_config.old" && pid=$(pid_of "$ROOM/run/sshd.pid"); then
    kill -s HUP "$pid"
    until_true 10 ssh_answers || true
  fi
  rm -f "$ROOM/etc/sshd_config.old"
}

ssh_start() {
  local key=$ROOM/etc/ssh_host_ed25519_key
  port ssh 20022 "$ROOM/run/sshd.pid"
  [[ -s $key ]] || ssh-keygen -q -t ed25519 -N '' -C "$MARK host" -f "$key"
  [[ -s $ROOM/etc/id_ed25519 ]] || ssh-keygen -q -t ed25519 -N '' -C "$MARK user" -f "$ROOM/etc/id_ed25519"
  install -m 644 "$ROOM/etc/id_ed25519.pub" "$ROOM/etc/authorized_keys"
  echo "[127.0.0.1]:$port $(cut -d' ' -f1,2 "$key.pub")" >"$ROOM/etc/known_hosts"
  mkdir -p /run/sshd # its privilege separation folder, which only a service manager would make
  write_sshd_config
  /usr/sbin/sshd -f "$ROOM/etc/sshd_config" -E "$ROOM/log/sshd.log"
  until_true 10 ssh_answers || tail -n 5 "$ROOM/log/sshd.log" >&2
}

ssh_stop() { stop_pid "$ROOM/run/sshd.pid"; }

# A SLURM cluster of one node and 64 pretended CPUs, with its own munge and an accounting database (sacct).
# Sourced by scripts/testbed.sh.

slurm_packages() { echo munge slurmctld slurmd slurm-client slurmdbd mariadb-server iproute2 procps util-linux; }

slurm_facts() {
  cat <<FACTS
slurm_conf=$ROOM/etc/slurm.conf
slurm_job_log=$ROOM/log/slurm-jobs.txt
slurmctld_pid_file=$ROOM/run/slurmctld.pid
FACTS
}

in_slurm() { SLURM_CONF=$ROOM/etc/slurm.conf timeout 10 "$@"; }

munge_answers() { munge -S "$ROOM/munge/socket" -n 2>/dev/null | unmunge -S "$ROOM/munge/socket" >/dev/null 2>&1; }
accounting_answers() { in_slurm sacctmgr -n list cluster >/dev/null 2>&1; }
node_is_ready() { in_slurm sinfo -h -o %T 2>/dev/null | grep -Eqx '(idle|mixed|allocated|completing|planned)[-+]?'; }

slurm_answers() {
  local name
  for name in slurmdbd slurmctld slurmd; do pid_of "$ROOM/run/$name.pid" >/dev/null || return 1; done
  munge_answers && node_is_ready && accounting_answers
}

# A munged of our own: its key and socket are in the bed's folder, the machine's are never looked at. It is picky
# about who may write to the folders above its socket; --force makes that a warning.
start_munge() {
  if munge_answers; then return; fi
  install -d -m 755 -o munge -g munge "$ROOM/munge"
  if [[ ! -s $ROOM/munge/key ]]; then
    (umask 077 && head -c 128 /dev/urandom >"$ROOM/munge/key")
    chown munge: "$ROOM/munge/key"
    chmod 400 "$ROOM/munge/key"
  fi
  stop_pid "$ROOM/munge/pid"
  rm -f "$ROOM/munge/socket" "$ROOM/munge/socket.lock"
  as_user munge /usr/sbin/munged --force --socket "$ROOM/munge/socket" --key-file "$ROOM/munge/key" \
    --pid-file "$ROOM/munge/pid" --seed-file "$ROOM/munge/seed" --log-file "$ROOM/munge/log" 2>>"$ROOM/log/munge.log"
  until_true 10 munge_answers || die "munged does not answer; see $ROOM/munge/log"
}

sql() { mariadb --no-defaults --socket "$ROOM/mariadb/socket" "$@"; }

start_mariadb() {
  port mariadb 20306 "$ROOM/mariadb/pid"
  mariadb_port=$port
  if pid_of "$ROOM/mariadb/pid" >/dev/null && sql -e 'select 1' >/dev/null 2>&1; then return; fi
  stop_pid "$ROOM/mariadb/pid"
  install -d -m 755 -o mysql -g mysql "$ROOM/mariadb"
  if [[ ! -e $ROOM/mariadb/made ]]; then
    rm -rf "$ROOM/mariadb/data"
    mariadb-install-db --no-defaults --user=mysql --datadir="$ROOM/mariadb/data" --skip-test-db >"$ROOM/log/mariadb-install.log" 2>&1
    : >"$ROOM/mariadb/made"
  fi
  in_background "$ROOM/log/mariadb.log" mariadbd --no-defaults --user=mysql --datadir="$ROOM/mariadb/data" \
    --socket="$ROOM/mariadb/socket" --pid-file="$ROOM/mariadb/pid" --bind-address=127.0.0.1 --port="$mariadb_port" \
    --innodb-buffer-pool-size=128M --innodb-lock-wait-timeout=900 --innodb-flush-log-at-trx-commit=2
  until_true 60 sql -e 'select 1' || die "mariadbd does not answer; see $ROOM/log/mariadb.log"
}

start_accounting() {
  if [[ ! -s $ROOM/etc/accounting.password ]]; then
    (umask 077 && head -c 18 /dev/urandom | base64 | tr -d '/+=\n' >"$ROOM/etc/accounting.password")
  fi
  local password host
  password=$(cat "$ROOM/etc/accounting.password")
  for host in localhost 127.0.0.1; do
    sql <<<"create or replace user slurm@'$host' identified by '$password'; grant all on slurm_accounting.* to slurm@'$host'"
  done
  stop_pid "$ROOM/run/slurmdbd.pid"
  port slurmdbd 20819 "$ROOM/run/slurmdbd.pid"
  slurmdbd_port=$port
  (umask 077 && cat >"$ROOM/etc/slurmdbd.conf") <<CONF
AuthType=auth/munge
AuthInfo=socket=$ROOM/munge/socket
DbdHost=localhost
DbdAddr=127.0.0.1
DbdPort=$slurmdbd_port
SlurmUser=root
PidFile=$ROOM/run/slurmdbd.pid
LogFile=$ROOM/log/slurmdbd.log
StorageType=accounting_storage/mysql
StorageHost=127.0.0.1
StoragePort=$mariadb_port
StorageUser=slurm
StoragePass=$password
StorageLoc=slurm_accounting
CommitDelay=1
CommunicationParameters=NoInAddrAny
CONF
  SLURM_CONF=$ROOM/etc/slurm.conf slurmdbd
}

# Scheduling is made quick and backfilled, so that one job that can never run does not hold up the others. Job
# steps are tracked by parentage: control groups are not ours to use on a machine that we share.
write_slurm_conf() {
  local node
  node=$(hostname -s)
  port slurmctld 20817 "$ROOM/run/slurmctld.pid"; local ctld=$port
  port slurmd 20818 "$ROOM/run/slurmd.pid"; local slurmd=$port
  cat >"$ROOM/etc/slurm.conf" <<CONF
ClusterName=$MARK
SlurmctldHost=$node(127.0.0.1)
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket=$ROOM/munge/socket
CommunicationParameters=NoCtldInAddrAny,NoInAddrAny
SlurmctldPort=$ctld
SlurmdPort=$slurmd
StateSaveLocation=$ROOM/slurm/controller
SlurmdSpoolDir=$ROOM/slurm/node
SlurmctldPidFile=$ROOM/run/slurmctld.pid
SlurmdPidFile=$ROOM/run/slurmd.pid
SlurmctldLogFile=$ROOM/log/slurmctld.log
SlurmdLogFile=$ROOM/log/slurmd.log
PlugStackConfig=$ROOM/etc/plugstack.conf
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
SwitchType=switch/none
MailProg=$ROOM/etc/mailer
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/slurmdbd
AccountingStorageHost=127.0.0.1
AccountingStoragePort=$slurmdbd_port
AccountingStoragePass=$ROOM/munge/socket
JobCompType=jobcomp/filetxt
JobCompLoc=$ROOM/log/slurm-jobs.txt
PropagateResourceLimits=NONE
ReturnToService=2
MinJobAge=600
MaxJobCount=50000
KillWait=5
SchedulerType=sched/backfill
SchedulerParameters=defer,batch_sched_delay=0,sched_interval=1,sched_min_interval=50000,default_queue_depth=1000
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SlurmdParameters=config_overrides
PriorityType=priority/basic
NodeName=$node NodeAddr=127.0.0.1 CPUs=64 Boards=1 SocketsPerBoard=1 CoresPerSocket=64 ThreadsPerCore=1 RealMemory=16000 State=UNKNOWN
PartitionName=debug Nodes=$node Default=YES MaxTime=1:00:00 DefaultTime=10 State=UP
PartitionName=long Nodes=$node MaxTime=1-00:00:00 DefaultTime=60 State=UP
CONF
  : >"$ROOM/etc/plugstack.conf"
  touch "$ROOM/log/slurm-jobs.txt"
  chmod 644 "$ROOM/log/slurm-jobs.txt"
  install -d -m 755 "$ROOM/slurm" "$ROOM/slurm/controller" "$ROOM/slurm/node"
}

slurm_start() {
  name_this_host
  start_munge
  start_mariadb
  # Daemons that hang or are half up are ended first: their ports and their view of each other are known then.
  stop_pid "$ROOM/run/slurmd.pid"
  stop_pid "$ROOM/run/slurmctld.pid"
  slurmdbd_port=$(cat "$ROOM/ports/slurmdbd" 2>/dev/null || echo 20819)
  write_slurm_conf
  start_accounting
  write_slurm_conf # once more: the accounting port may have moved
  # A controller that starts before its accounting answers ends with "no TRES".
  until_true 30 accounting_answers || die "slurmdbd does not answer; see $ROOM/log/slurmdbd.log"
  SLURM_CONF=$ROOM/etc/slurm.conf slurmctld -f "$ROOM/etc/slurm.conf" 2>>"$ROOM/log/slurmctld.log"
  until_true 10 test -s "$ROOM/run/slurmctld.pid"
  SLURM_CONF=$ROOM/etc/slurm.conf slurmd -N "$(hostname -s)" -f "$ROOM/etc/slurm.conf" 2>>"$ROOM/log/slurmd.log"
  until_true 20 in_slurm scontrol ping || die "slurmctld does not answer; see $ROOM/log/slurmctld.log"
  if ! until_true 10 node_is_ready; then
    in_slurm scontrol update nodename="$(hostname -s)" state=resume || true
    until_true 20 node_is_ready || die "the node does not become idle; see $ROOM/log/slurmd.log"
  fi
  until_true 5 slurm_answers || true
}

slurm_stop() {
  stop_pid "$ROOM/run/slurmd.pid"
  stop_pid "$ROOM/run/slurmctld.pid"
  stop_pid "$ROOM/run/slurmdbd.pid"
  stop_pid "$ROOM/mariadb/pid"
  stop_pid "$ROOM/munge/pid"
  forget_this_host slurm
}

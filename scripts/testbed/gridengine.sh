# Grid Engine 8.1.9 on one node with 64 pretended slots, with a cell, a spool and ports of its own. Sourced by
# scripts/testbed.sh.
#
# Its daemons listen on every address and cannot be told not to (they answer hosts of the cell only). Where the
# machine's packet filter can be set, two rules with the bed's mark close their ports to all but loopback; they go
# with `down`.

gridengine_packages() { echo gridengine-master gridengine-exec gridengine-client iptables iproute2 procps util-linux; }

gridengine_facts() { echo "sge_root=$ROOM/gridengine"; }

GRIDENGINE_USER=sgeadmin # made by Debian's package
gridengine_cell() { echo "$ROOM/gridengine/default/common"; }
gridengine_master_pid() { echo "$ROOM/gridengine/qmaster/qmaster.pid"; }
gridengine_node_pid() { echo "$ROOM/gridengine/execd/pid"; }

# What a shell needs to find this cell and no other.
gridengine_environment() {
  echo "SGE_ROOT=$ROOM/gridengine SGE_CELL=default SGE_QMASTER_PORT=$(cat "$ROOM/ports/sge_qmaster")" \
    "SGE_EXECD_PORT=$(cat "$ROOM/ports/sge_execd")"
}

in_gridengine() {
  local words
  read -ra words <<<"$(gridengine_environment)"
  (cd "$ROOM/gridengine" && env "${words[@]}" timeout 20 "$@")
}

gridengine_master_answers() { in_gridengine qconf -sss >/dev/null 2>&1; }
# A node that has not reported yet has no load; a queue there would be in state "au".
gridengine_node_is_ready() { in_gridengine qstat -f -q all.q 2>/dev/null | grep -E '^all\.q@.* +[0-9.]+ +lx-[a-z0-9]+ *$' >/dev/null; }

gridengine_answers() {
  [[ -s $ROOM/ports/sge_qmaster && -s $ROOM/ports/sge_execd ]] &&
    pid_of "$(gridengine_master_pid)" >/dev/null && pid_of "$(gridengine_node_pid)" >/dev/null &&
    gridengine_node_is_ready
}

# The mail of jobs is handed to the bed's mailer if there is one.
gridengine_mailer() { if [[ -x $ROOM/etc/mailer ]]; then echo "$ROOM/etc/mailer"; else echo /bin/true; fi; }

make_gridengine_cell() {
  local root=$ROOM/gridengine cell resources=/usr/share/gridengine/util/resources each part
  local as=(setpriv --reuid "$GRIDENGINE_USER" --regid "$GRIDENGINE_USER" --init-groups --)
  cell=$(gridengine_cell)
  rm -rf "$root"
  install -d -m 755 -o "$GRIDENGINE_USER" -g "$GRIDENGINE_USER" "$root" "$root/default" "$cell" "$root/qmaster" "$root/execd" "$root/spool"
  # Programs, libraries and message files are the package's, by the links that it made.
  for each in bin lib util utilbin; do ln -s "/var/lib/gridengine/$each" "$root/$each"; done
  echo "$MARK" >"$cell/cluster_name"
  hostname -s >"$cell/act_qmaster"
  # 127.0.0.1 is "localhost" for whoever looks it up backwards, and Grid Engine knows hosts by name.
  echo "$(hostname -s) localhost" >"$cell/host_aliases"
  sed -e "s#^spooling_params .*#spooling_params $root/spool#" -e "s#^qmaster_spool_dir .*#qmaster_spool_dir $root/qmaster#" \
    /usr/share/gridengine/default-bootstrap >"$cell/bootstrap"
  gridengine_configuration </usr/share/gridengine/default-configuration >"$root/configuration"
  chown -R "$GRIDENGINE_USER:" "$root/default" "$root/configuration"
  {
    in_gridengine "${as[@]}" /usr/lib/gridengine/spoolinit berkeleydb libspoolb "$root/spool" init
    for part in "configuration $root/configuration" "complexes $resources/centry" "usersets $resources/usersets" \
      "managers $GRIDENGINE_USER root"; do
      # shellcheck disable=SC2086
      in_gridengine "${as[@]}" /usr/lib/gridengine/spooldefaults $part
    done
  } >"$ROOM/log/gridengine-install.log" 2>&1 || die "no cell of Grid Engine; see $ROOM/log/gridengine-install.log"
}

# Jobs are accounted at once, ended jobs leave the queue at once, and groups of jobs' processes are out of others' way.
gridengine_configuration() {
  sed -e "s#^execd_spool_dir .*#execd_spool_dir $ROOM/gridengine/execd#" -e "s#^mailer .*#mailer $(gridengine_mailer)#" \
    -e 's#^administrator_mail .*#administrator_mail none#' -e 's#^load_report_time .*#load_report_time 00:00:05#' \
    -e 's#^gid_range .*#gid_range 64500-64899#' -e 's#flush_time=[0-9:]*#accounting_flush_time=00:00:00 flush_time=00:00:15#' \
    -e 's#^finished_jobs .*#finished_jobs 0#'
}

# qconf_of TEXT OPTION… : qconf with a file of that content
qconf_of() {
  local text=$1; shift
  printf '%s\n' "$text" >"$ROOM/gridengine/setting"
  in_gridengine qconf "$@" "$ROOM/gridengine/setting"
}

queue_of() { # NAME SLOTS
  local each
  printf '%s\n' "qname $1" "hostlist $(hostname -s)" "seq_no 0" "nsuspend 1" "suspend_interval 00:05:00" "priority 0" \
    "min_cpu_interval 00:05:00" "processors UNDEFINED" "qtype BATCH INTERACTIVE" "rerun FALSE" "slots $2" "tmpdir /tmp" \
    "shell /bin/sh" "shell_start_mode unix_behavior" "notify 00:00:05" "initial_state default" "pe_list make smp"
  for each in load_thresholds suspend_thresholds ckpt_list prolog epilog starter_method suspend_method resume_method \
    terminate_method owner_list user_lists xuser_lists subordinate_list complex_values projects xprojects calendar; do
    echo "$each NONE"
  done
  for each in rt cpu fsize data stack core rss vmem; do printf '%s\n' "s_$each INFINITY" "h_$each INFINITY"; done
}

# The host, two queues, two parallel environments, a project; scheduling is made quick. Made once, by the files of
# the cell's own commands.
configure_gridengine() {
  local host each
  host=$(hostname -s)
  {
    in_gridengine qconf -as "$host"
    qconf_of "$(printf '%s\n' "hostname $host" "load_scaling NONE" "complex_values NONE" "user_lists NONE" "xuser_lists NONE" \
      "projects NONE" "xprojects NONE" "usage_scaling NONE" "report_variables NONE")" -Ae
    for each in make smp; do in_gridengine qconf -Ap "/usr/share/gridengine/util/resources/pe/$each"; done
    qconf_of "$(queue_of all.q 64)" -Aq
    qconf_of "$(queue_of long.q 64)" -Aq
    qconf_of "$(printf '%s\n' "name science" "oticket 0" "fshare 0" "acl NONE" "xacl NONE")" -Aprj
    qconf_of "$(in_gridengine qconf -ssconf | sed -e 's/^schedule_interval .*/schedule_interval 0:0:1/' \
      -e 's/^flush_\(submit\|finish\)_sec .*/flush_\1_sec 1/' -e 's/^schedd_job_info .*/schedd_job_info true/')" -Msconf
  } >>"$ROOM/log/gridengine-install.log" 2>&1 || die "Grid Engine refuses its configuration; see $ROOM/log/gridengine-install.log"
  : >"$ROOM/gridengine/made"
}

guard_gridengine() { # -I or -D
  local try
  for try in 1 2; do
    iptables -w "$1" INPUT ! -i lo -p tcp -m multiport --dports "$(cat "$ROOM/ports/sge_qmaster"),$(cat "$ROOM/ports/sge_execd")" \
      -m comment --comment "$MARK" -j DROP 2>>"$ROOM/log/iptables.log" || return
    if [[ $1 != -D ]]; then return; fi
  done
}

gridengine_start() {
  local words
  name_this_host
  port sge_qmaster 20444 "$(gridengine_master_pid)"
  port sge_execd 20445 "$(gridengine_node_pid)"
  [[ -e $ROOM/gridengine/made ]] || make_gridengine_cell
  guard_gridengine -D || true
  guard_gridengine -I || say "warning: the packet filter cannot be set: Grid Engine's ports are open on every address"
  read -ra words <<<"$(gridengine_environment)"
  # Daemons that are half up are ended first.
  stop_pid "$(gridengine_node_pid)"
  if ! pid_of "$(gridengine_master_pid)" >/dev/null || ! until_true 5 gridengine_master_answers; then
    stop_pid "$(gridengine_master_pid)"
    env "${words[@]}" setsid nohup timeout 60 sge_qmaster >>"$ROOM/log/gridengine.log" 2>&1 </dev/null
    until_true 30 gridengine_master_answers || die "sge_qmaster does not answer; see $ROOM/gridengine/qmaster/messages"
  fi
  [[ -e $ROOM/gridengine/made ]] || configure_gridengine
  if [[ $(in_gridengine qconf -sconf | sed -n 's/^mailer *//p') != "$(gridengine_mailer)" ]]; then
    in_gridengine qconf -sconf | sed "s#^mailer .*#mailer $(gridengine_mailer)#" >"$ROOM/gridengine/global"
    in_gridengine qconf -Mconf "$ROOM/gridengine/global" >>"$ROOM/log/gridengine.log" 2>&1 || true
  fi
  (cd "$ROOM/gridengine" && env -i PATH="$PATH" LC_ALL=C "${words[@]}" \
    SGE_EXECD_PIDFILE="$(gridengine_node_pid)" setsid nohup timeout 60 sge_execd >>"$ROOM/log/gridengine.log" 2>&1 </dev/null)
  until_true 30 gridengine_node_is_ready || tail -n 5 "$ROOM"/gridengine/execd/*/messages >&2
  gridengine_environment >"$ROOM/etc/environment.gridengine"
  ssh_environment
}

# The node first: it tells the master that it goes. Jobs that run are ended with it, by their shepherds' groups.
gridengine_stop() {
  stop_pid "$(gridengine_node_pid)"
  stop_pid "$(gridengine_master_pid)"
  if [[ -s $ROOM/ports/sge_qmaster && -s $ROOM/ports/sge_execd ]]; then guard_gridengine -D || true; fi
  forget_this_host gridengine
}

"""The shell text of every job's script: what makes a job's end known, whatever happens.

What always holds in a script that is written with it (:mod:`~airavata_provider.schedulers.script`):

- The payload runs in the background and is waited for, so that signals are noticed while it runs. SIGTERM and
  SIGINT reach it as SIGTERM. SIGUSR1 (the walltime is near) reaches it as the signal that was asked for, and only
  when it has a handler for that: it would die of the notice and could yet finish. A launcher, which would pass it
  on to processes without one, gets it only when somebody asked for it.
- A trap writes the ``exit`` record, atomically, with the payload's own status: after its end, after
  ``exit`` in a pre command, after a signal. The script ends with that status, so that the scheduler shows
  the same.
- A run beside which the scheduler started the job again, having lost sight of it (a node that was cut off and came
  back), leaves no record, tells no end and touches nothing of the later one's; where the scheduler tells restarts.
- Post commands run whatever happened, before the ``end`` call, so that whoever is called finds their work
  done.
- Webhook calls never fail the job. ``start`` is sent in the background. The end waits for it for 2 s at
  most, then takes 3 tries of 5 s with pauses of 1 and 3 s: 21 s in all when nobody answers.
- Without a way out, each piece of news is a file of its own instead, whole or not at all.
- The webhook's token is in a file that only the user can read, and reaches the tools as a file: it is
  neither in the script nor in an environment nor on a command line.
- Each element of an array keeps its files in a control directory of its own and tells its own news; the credential
  is the array's.
- What the site set in ``PATH`` and ``LD_LIBRARY_PATH`` at the start is back for the tools at the end: modules
  often bring libraries that a system's ``curl`` does not run with.

POSIX shell. Pure; no Airflow.
"""

FUNCTIONS = r"""
airavata_path=$PATH airavata_libraries=${LD_LIBRARY_PATH-} airavata_pid= airavata_told= airavata_near=
airavata_code= airavata_watchdog= airavata_alarm= airavata_at=
airavata_self=
read -r airavata_self airavata_rest 2>/dev/null </proc/self/stat || :
airavata_now() { date -u +%Y-%m-%dT%H:%M:%SZ; }

airavata_number() { # the signal in a shell's exit status, or null
  if [ "$1" -gt 128 ] && [ "$1" -le 192 ]; then echo $(($1 - 128)); else echo null; fi
}

airavata_record() { # STATUS REASON: one line of JSON
  printf '{"exit_code": %s, "signal": %s, "reason": "%s", "time": "%s", "native_id": "%s", "restart": %s}\n' \
    "$1" "$(airavata_number "$1")" "$2" "$(airavata_now)" "$airavata_native" "$airavata_restart"
}

airavata_send() { # FILE: the HTTP status of one call, nothing when no tool could make it
  if command -v curl >/dev/null 2>&1; then
    curl -s -o /dev/null -w '%{http_code}' --connect-timeout 3 --max-time 5 -K "$airavata_webhook" \
      -H 'Content-Type: application/json' --data-binary "@$1" --url "$airavata_url"
    # 2: curl itself does not start; above 125: it does not run here.
    case $? in 2|126|127) ;; *) return 0;; esac
  fi
  if wget --version 2>/dev/null | grep GNU >/dev/null; then
    (umask 077; sed 's/"//g' "$airavata_webhook" >"$airavata_control/wgetrc")
    wget --config="$airavata_control/wgetrc" -q -S -O /dev/null -t 1 --connect-timeout=3 -T 5 \
      --header='Content-Type: application/json' --post-file="$1" -- "$airavata_url" 2>&1 \
      | sed -n 's,^ *HTTP/[0-9.]* \([0-9][0-9][0-9]\).*,\1,p' | tail -n 1
    return 0
  fi
  for airavata_python in python3 python; do
    command -v $airavata_python >/dev/null 2>&1 || continue
    $airavata_python -c '
import sys, urllib.request, urllib.error
header = open(sys.argv[1]).read().split(chr(34))[1].split(": ", 1)
body = open(sys.argv[2], "rb").read()
request = urllib.request.Request(sys.argv[3], body, {"Content-Type": "application/json"})
request.add_unredirected_header(*header)
try:
    print(urllib.request.urlopen(request, timeout=5).status)
except urllib.error.HTTPError as error:
    print(error.code)
' "$airavata_webhook" "$1" "$airavata_url" && return 0
  done
}

airavata_leave() { # EVENT: there is no way out: its news waits, whole or not at all, where the poll collects it
  airavata_spool=${airavata_url#file://} airavata_who=${airavata_url##*/}
  airavata_spool=${airavata_spool%/*}-$(id -u)
  [ -d "$airavata_spool" ] || mkdir -m 700 "$airavata_spool" || [ -d "$airavata_spool" ]
  cat "$airavata_body" >"$airavata_spool/.$airavata_who:$1-$airavata_restart" \
    && mv -f "$airavata_spool/.$airavata_who:$1-$airavata_restart" \
      "$airavata_spool/$airavata_who:$1-$airavata_restart.json" || echo "relay: $1 could not be left"
  rm -f "$airavata_body"
  [ "$1" = end ] || rm -f "$airavata_control/telling"
}

airavata_tell() { # EVENT STATUS REASON; never fails, takes 19 s at most
  [ -n "$airavata_url" ] || return 0
  (
    trap '' USR1 INT HUP ALRM; trap 'exit 0' TERM
    PATH=$airavata_path LD_LIBRARY_PATH=$airavata_libraries
    [ -n "$LD_LIBRARY_PATH" ] || unset LD_LIBRARY_PATH
    unset LD_PRELOAD PYTHONPATH PYTHONHOME
    airavata_body=$airavata_control/event-$1
    airavata_fields='"exit_code": null, "signal": null, "reason": ""'
    if [ "$1" = end ]; then
      airavata_fields="\"exit_code\": $2, \"signal\": $(airavata_number "$2"), \"reason\": \"$3\""
    fi
    printf '{"event": "%s", "id": "%s-%s-%s", %s, "time": "%s", "native_id": "%s"}' \
      "$1" "$1" "$airavata_native" "$airavata_restart" "$airavata_fields" "$(airavata_now)" \
      "$airavata_native" >"$airavata_body"
    case $airavata_url in file://*) airavata_leave "$1"; exit 0;; esac
    for airavata_pause in 1 3 0; do
      # The job is over: its start is no news any more.
      if [ "$1" = start ] && [ -e "$airavata_control/ending" ]; then break; fi
      airavata_http=$(airavata_send "$airavata_body")
      case $airavata_http in
        2??|409) break;;
        4??) echo "webhook: $1 was refused with $airavata_http"; break;;
        *) echo "webhook: $1 did not get through (${airavata_http:-no answer})"; sleep "$airavata_pause";;
      esac
    done
    rm -f "$airavata_body"
    [ "$1" = end ] || rm -f "$airavata_control/telling"
  ) </dev/null >>"$airavata_control/webhook.log" 2>&1 || :
}

airavata_keep() { # STATUS REASON: the exit record, whole or not at all
  airavata_record "$1" "$2" >"$airavata_control/exit.new" \
    && mv -f "$airavata_control/exit.new" "$airavata_control/exit"
}

airavata_last() { # unless the job was started again beside this run, of which its scheduler had lost sight
  airavata_since= airavata_n=
  IFS=' ' read -r airavata_since airavata_n <"$airavata_control/started" || :
  ! { [ "$airavata_since" = "$airavata_native" ] && [ "$airavata_n" -gt "$airavata_restart" ]; }
} 2>/dev/null

airavata_end() { # STATUS: runs once, as the trap of the script's exit
  set +eu
  trap - EXIT
  # A subshell that bash has not yet freed of our traps when it is told to stop would end the job in our place.
  airavata_it=$airavata_self
  [ -z "$airavata_self" ] || read -r airavata_it airavata_rest 2>/dev/null </proc/self/stat
  [ "$airavata_it" = "$airavata_self" ] || exit "$1"
  # From here on the end is on its way; being told again changes nothing.
  trap '' TERM INT HUP USR1 ALRM
  PATH=$airavata_path:$PATH
  airavata_code=${airavata_code:-$1} airavata_reason=$airavata_told
  [ -z "$airavata_watchdog" ] || kill -s TERM "$airavata_watchdog" 2>/dev/null
  airavata_last || airavata_exit "$airavata_code"
  airavata_keep "$airavata_code" "$airavata_reason"
  # A shell that was just forked loses what it is told.
  [ -z "$airavata_watchdog" ] || kill -s TERM "$airavata_watchdog" 2>/dev/null
  # Not every scheduler reaches a process that left for a session of its own (SLURM's proctrack/linuxproc).
  [ -z "$airavata_told" ] || airavata_clear
  (airavata_post_commands) </dev/null
  airavata_keep "$airavata_code" "$airavata_reason"
  : >"$airavata_control/ending"
  airavata_n=0
  while [ -e "$airavata_control/telling" ] && [ $airavata_n -lt 20 ]; do
    sleep 0.1 2>/dev/null || sleep 1; airavata_n=$((airavata_n + 1))
  done
  airavata_tell end "$airavata_code" "$airavata_reason"
  airavata_exit "$airavata_code"
}

airavata_exit() { # STATUS, or 1 in the place of one that means something else to the scheduler
  case "$airavata_reserved" in *" $1 "*) exit 1;; esac
  exit "$1"
}

airavata_payload() { # the payload's process id into $airavata_at; nothing when it does not run
  airavata_at= airavata_n=0
  [ -n "$airavata_pid" ] || { airavata_missed=1; return 1; }
  # It writes its id itself, which is a moment after it was started.
  while [ ! -s "$airavata_control/pid.$airavata_restart" ] && kill -0 "$airavata_pid" && [ $airavata_n -lt 100 ]; do
    sleep 0.05 || sleep 1; airavata_n=$((airavata_n + 1))
  done
  read -r airavata_at <"$airavata_control/pid.$airavata_restart"
} 2>/dev/null

airavata_sweep() { # SIGNAL to the payload's descendants, which carry the job's mark wherever they went
  # This shell does not carry it: it was started without; nor do those who look. Tells whether there were any.
  airavata_found=1 airavata_mark=AIRAVATA_JOB=${AIRAVATA_JOB:-none}
  for airavata_p in $(unset AIRAVATA_JOB; grep -lszxF "$airavata_mark" /proc/[0-9]*/environ | tr -dc '0-9\n'); do
    [ "$airavata_p" = "$airavata_at" ] || { airavata_found=0; kill -s "$1" "$airavata_p"; }
  done
  return $airavata_found
} 2>/dev/null

airavata_clear() { # end all of them, for 2 s at most
  # Whoever is starting a program carries no mark for that moment, so nobody has to be found twice in a row.
  airavata_at= airavata_n=0 airavata_gone=0
  while [ "$airavata_gone" -lt 2 ] && [ $airavata_n -lt 20 ]; do
    if airavata_sweep KILL; then airavata_gone=0; else airavata_gone=$((airavata_gone + 1)); fi
    airavata_n=$((airavata_n + 1)); sleep 0.1 2>/dev/null || sleep 1
  done
}

airavata_stop() { # REASON: somebody wants the job to end
  # Whoever gave notice of the walltime and says stop when it is over, means the walltime.
  if [ -n "$airavata_near" ] && [ "$(date +%s)" -ge "$((airavata_near + airavata_before - 90))" ]; then
    set -- WALLTIME
  fi
  [ -n "$airavata_told" ] || airavata_told=$1
  if airavata_payload; then kill -s TERM "$airavata_at" 2>/dev/null; fi
}

airavata_expire() { # the walltime is over, and nobody but this script ends the job: kindly, then not
  [ -n "$airavata_told" ] || airavata_told=WALLTIME
  if [ -z "$airavata_alarm" ]; then airavata_alarm=TERM; else airavata_alarm=KILL; fi
  if airavata_payload; then kill -s $airavata_alarm "$airavata_at"; fi
  airavata_sweep $airavata_alarm
} 2>/dev/null

airavata_has() { # WHICH: whether the signal is among those of the payload (proc(5)); the first 16 are looked at
  airavata_mask=$(sed -n "s/^$1:.*\\(....\\)$/0x\\1/p" "/proc/$airavata_at/status")
  [ -n "$airavata_mask" ] && [ "$(($airavata_mask >> $airavata_bit & 1))" -eq 1 ]
}

airavata_notice() { # the walltime is near
  airavata_near=$(date +%s)
  if [ -z "$airavata_spared" ] && airavata_payload; then
    # What is caught is sent, and what stays blocked, as another of its threads may wait for it. It would die of any
    # other; and a shell blocks all for a moment whenever it starts a program.
    airavata_looks=0
    until airavata_has SigCgt || [ "$airavata_looks" -eq 3 ]; do
      airavata_has SigBlk || break
      sleep 1
      airavata_looks=$((airavata_looks + 1))
    done
    if airavata_has SigCgt || [ "$airavata_looks" -eq 3 ]; then
      kill -s "$airavata_signal" "$airavata_at"
      return 0
    fi
  fi 2>/dev/null
  [ -z "$airavata_asked" ] || echo "SIG$airavata_signal is not sent: no program runs that has a handler for it"
}"""
"""What is the same in every job's script."""

BEGIN = r"""
# Two files are this run's own: an earlier one may go on where nobody sees it.
rm -f "$airavata_control/exit" "$airavata_control/ending" \
  "$airavata_control/pid.$airavata_restart" "$airavata_control/status.$airavata_restart"
trap 'airavata_end $?' EXIT
trap 'airavata_stop "SIGNAL TERM"' TERM
trap 'airavata_stop "SIGNAL INT"' INT
trap airavata_expire ALRM
trap airavata_notice USR1
echo "$airavata_native $airavata_restart" >"$airavata_control/started"
if [ -n "$airavata_url" ]; then
  : >"$airavata_control/telling"
  airavata_tell start &
fi"""

PAYLOAD = """
# Modules and pre commands may have set options that would end this script early.
set +eu
airavata_missed=
# Told to stop before the payload began: there is nothing to begin any more.
[ -z "$airavata_told" ] || exit 143
(
  # This shell is only there to note how the payload ends; what is caught is not caught in the payload.
  trap : TERM USR1 ALRM HUP
  /bin/sh -c 'echo $$ >"$0"; exec "$@"' "$airavata_control/pid.$airavata_restart" \\
    {command} <{stdin} >{stdout} 2>{error}
  airavata_code=$?
  echo $airavata_code >"$airavata_control/status.$airavata_restart"
  exit $airavata_code
) &
airavata_pid=$!
# A signal that came between the fork and this line found nobody to be told.
if [ -n "$airavata_missed" ]; then
  [ -z "$airavata_told" ] || airavata_stop "$airavata_told"
  [ -z "$airavata_near" ] || airavata_notice
fi"""

WAIT = r"""
# A wait that a trap interrupts has told nothing yet, and bash may then lose the status: hence the file.
while :; do
  wait "$airavata_pid"
  airavata_code=$?
  [ ! -s "$airavata_control/status.$airavata_restart" ] && kill -0 "$airavata_pid" 2>/dev/null || break
done
[ ! -s "$airavata_control/status.$airavata_restart" ] \
  || read -r airavata_code <"$airavata_control/status.$airavata_restart"
exit "$airavata_code" """.rstrip()

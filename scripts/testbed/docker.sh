# A Docker Engine and one small image. Sourced by scripts/testbed.sh.
#
# An engine that answers already is used and left alone. One that is started here has its own socket and data
# folder, and no network but the host's and none, so that neither the machine's bridges nor its packet filter change.

DOCKER_IMAGE=airavata-test/busybox

docker_packages() {
  if ! command -v dockerd >/dev/null && ! docker version >/dev/null 2>&1; then echo docker.io; fi
  echo busybox-static
}

docker_facts() {
  echo "docker_image=$DOCKER_IMAGE"
  echo "docker_host=$(cat "$ROOM/etc/docker_host")"
}

bed_docker() { DOCKER_HOST=$(cat "$ROOM/etc/docker_host") timeout 30 docker "$@"; }

docker_answers() { [[ -s $ROOM/etc/docker_host ]] && bed_docker image inspect "$DOCKER_IMAGE" >/dev/null 2>&1; }

start_engine() {
  local host
  for host in "${DOCKER_HOST:-unix:///var/run/docker.sock}" "unix://$ROOM/docker/socket"; do
    echo "$host" >"$ROOM/etc/docker_host"
    if bed_docker version >/dev/null 2>&1; then return; fi
  done
  stop_pid "$ROOM/docker/pid"
  mkdir -p "$ROOM/docker"
  chmod 711 "$ROOM/docker"
  # A killed engine leaves its containerd behind, which the next one takes over by itself.
  in_background "$ROOM/log/dockerd.log" dockerd --host "unix://$ROOM/docker/socket" --pidfile "$ROOM/docker/pid" \
    --data-root "$ROOM/docker/data" --exec-root "$ROOM/docker/run" --config-file "$ROOM/docker/daemon.json" \
    --iptables=false --ip6tables=false --bridge=none --ip-forward=false --ip-masq=false
  until_true 30 bed_docker version || { tail -n 5 "$ROOM/log/dockerd.log" >&2; die "dockerd does not answer"; }
}

# A static busybox under every one of its names is an image with a shell, without a registry.
make_image() {
  local root=$ROOM/docker/image applet
  rm -rf "$root"
  mkdir -p "$root/bin" "$root/tmp"
  chmod 1777 "$root/tmp"
  for applet in $(busybox --list); do ln -s busybox "$root/bin/$applet"; done
  rm -f "$root/bin/busybox"
  cp "$(command -v busybox)" "$root/bin/busybox"
  tar -C "$root" -c . | bed_docker import --change 'ENV PATH=/bin' --change 'CMD ["sh"]' - "$DOCKER_IMAGE" >/dev/null
  rm -rf "$root"
}

docker_start() {
  mkdir -p "$ROOM/docker"
  [[ -s $ROOM/docker/daemon.json ]] || echo '{}' >"$ROOM/docker/daemon.json"
  start_engine
  bed_docker image inspect "$DOCKER_IMAGE" >/dev/null 2>&1 || make_image
}

docker_stop() {
  stop_pid "$ROOM/docker/pid"
  stop_pid "$ROOM/docker/run/containerd/containerd.pid"
}

#!/usr/bin/env bash
# Installs what a make target needs and is not there yet, saying in one line what
# and why. usage: setup.sh test|race|bench
set -euo pipefail
cd "$(dirname "$0")/../.."

updated=no

# there COMMAND|/FILE: is it installed?
there() {
	case "$1" in
	/*) [ -e "$1" ] ;;
	*) command -v "$1" >/dev/null 2>&1 ;;
	esac
}

# need COMMAND|/FILE PACKAGE WHY: installs the Debian package that brings it.
need() {
	there "$1" && return
	echo "installing Debian's $2: $3"
	local as=()
	if [ "$(id -u)" != 0 ]; then
		command -v sudo >/dev/null || { echo "not root and no sudo: please install $2 yourself" >&2; exit 1; }
		as=(sudo)
	fi
	if [ $updated = no ]; then
		"${as[@]}" apt-get -qq -o DPkg::Lock::Timeout=120 update </dev/null
		updated=yes
	fi
	# RUNLEVEL=1: a package that brings a service must not start it.
	"${as[@]}" env DEBIAN_FRONTEND=noninteractive RUNLEVEL=1 \
		apt-get -qq -o DPkg::Lock::Timeout=120 install -y --no-install-recommends "$2" </dev/null >/dev/null
	there "$1" || { echo "Debian's $2 brought no $1" >&2; exit 1; }
}

need_go() {
	there go && return
	echo "no go command: install Go 1.26 or newer first (go.dev/doc/install)" >&2
	exit 1
}

# need_npm installs the packages of test/package-lock.json if the list that npm
# left behind is missing or older than the lock file.
need_npm() {
	need node nodejs "MQTT.js, one of the real clients in test/e2e, runs on it"
	need npm npm "it fetches MQTT.js"
	[ test/node_modules/.package-lock.json -nt test/package-lock.json ] && return
	echo "installing the npm packages of test/package-lock.json: MQTT.js, one of the real clients in test/e2e"
	(cd test && npm ci --silent --no-audit --no-fund </dev/null && touch node_modules/.package-lock.json)
}

need_go
case "${1:-}" in
test)
	need mosquitto_pub mosquitto-clients "mosquitto_pub and mosquitto_sub are real clients in test/e2e"
	need_npm
	;;
race)
	need gcc gcc "Go's race detector is linked by it"
	need /usr/include/stdlib.h libc6-dev "the C headers that Go's race detector needs"
	;;
bench)
	need /usr/sbin/mosquitto mosquitto "the broker that ours is measured against"
	;;
*)
	echo "usage: setup.sh test|race|bench" >&2
	exit 2
	;;
esac

#!/usr/bin/env bash
# Sends packets through the rules of skep.nft, in network namespaces that end with this script: a host with a container
# behind a bridge, and the outside, which holds the metadata and another node. Needs root and a kernel with nftables.
# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/../scripts/lib.sh"

[ "$(id -u)" -eq 0 ] || exec scripts/as-root "$root/packaging/test-firewall.sh" "$@"
[ "${1:-}" = inside ] ||
    exec unshare --net --mount --pid --fork --kill-child --mount-proc "$root/packaging/test-firewall.sh" inside

# --- The networks -----------------------------------------------------------------------------------

# /run, /etc and all processes are this script's own, and end with it.
work=/run/work
mount -t tmpfs -o mode=755 tmpfs /run
mkdir -p "$work/upper" "$work/work" /run/netns
mount -t overlay -o "lowerdir=/etc,upperdir=$work/upper,workdir=$work/work" overlay /etc

# The users and directories of the package.
SKEP=64321 OTHER=64322
sed -i '/^skep:/d' /etc/passwd
echo "skep:x:$SKEP:$SKEP::/var/lib/skep:/usr/sbin/nologin" >>/etc/passwd
rm -rf /etc/skep/firewall.d
mkdir -p /etc/skep/firewall.d

METADATA=169.254.169.254 METADATA6=fd00:ec2::254 DNS=169.254.169.253
NODE=10.0.0.1 OTHER_NODE=10.0.0.2 GATEWAY=172.20.0.1 CONTAINER=172.20.0.2

# link <interface here> <namespace> <its interface>
link() {
    ip netns add "$2"
    ip link add "$1" type veth peer name "$3" netns "$2"
    ip link set "$1" up
    ip -n "$2" link set lo up
    ip -n "$2" link set "$3" up
}
ip link set lo up
ip link add docker0 type bridge
ip link set docker0 up
link veth1 container eth0
link ens5 outside ens5
ip link set veth1 master docker0

ip address add $GATEWAY/16 dev docker0
ip address add fd20::1/64 dev docker0 nodad
ip -n container address add $CONTAINER/16 dev eth0
ip -n container address add fd20::2/64 dev eth0 nodad
ip -n container route add default via $GATEWAY
ip -n container route add default via fd20::1
ip address add $NODE/24 dev ens5
ip address add fd10::1/64 dev ens5 nodad
for address in $OTHER_NODE/24 $METADATA/32 $DNS/32; do ip -n outside address add "$address" dev ens5; done
for address in fd10::2/64 $METADATA6/128; do ip -n outside address add "$address" dev ens5 nodad; done
ip route add 169.254.0.0/16 dev ens5
ip route add $METADATA6 dev ens5
ip -n outside route add 172.20.0.0/16 via $NODE
ip -n outside route add fd20::/64 via fd10::1
sysctl -q net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1
# Every refusal is reported, however many there are.
sysctl -q net.ipv4.icmp_ratelimit=0 net.ipv6.icmp.ratelimit=0

# --- Programs that answer and that ask ----------------------------------------------------------------

cat >"$work/answer" <<'PYTHON'
"""answer <tcp or udp>:<port>...: sends back what it receives."""
import socket, socketserver, sys, threading
class Tcp(socketserver.ThreadingTCPServer):
    address_family, allow_reuse_address, daemon_threads = socket.AF_INET6, True, True
class Udp(socketserver.ThreadingUDPServer):
    address_family, daemon_threads = socket.AF_INET6, True
class Stream(socketserver.BaseRequestHandler):
    def handle(self):
        while text := self.request.recv(64):
            print(text.decode(), flush=True)
            self.request.sendall(text)
class Packet(socketserver.BaseRequestHandler):
    def handle(self):
        self.request[1].sendto(self.request[0], self.client_address)
for kind, port in (wanted.split(":") for wanted in sys.argv[1:]):
    server = (Tcp if kind == "tcp" else Udp)(("::", int(port)), Stream if kind == "tcp" else Packet)
    threading.Thread(target=server.serve_forever).start()
PYTHON
cat >"$work/ask" <<'PYTHON'
"""ask <tcp or udp> <address> <port>: prints answers, refused, or silent."""
import socket, sys
kind, address, port = sys.argv[1:]
family = socket.AF_INET6 if ":" in address else socket.AF_INET
asks = socket.socket(family, socket.SOCK_STREAM if kind == "tcp" else socket.SOCK_DGRAM)
asks.settimeout(3)
try:
    asks.connect((address, int(port)))
    asks.send(b"hello")
    print("answers" if asks.recv(64) == b"hello" else "refused")
except TimeoutError:
    print("silent")
except OSError:
    print("refused")
PYTHON

SWARM='tcp:2377 tcp:7946 udp:7946 udp:4789'
# The outside also answers as the metadata.
for place in 'host tcp:9000' 'container tcp:8080' 'outside tcp:80 tcp:8080 udp:8125'; do
    # shellcheck disable=SC2086
    set -- $place $SWARM
    prefix=()
    [ "$1" = host ] || prefix=(ip netns exec "$1")
    "${prefix[@]}" /usr/bin/python3 "$work/answer" "${@:2}" >"$work/$1.log" &
done

# asks <container, outside, or a user of the host> <tcp or udp> <address> <port>
asks() {
    case $1 in
        container | outside) ip netns exec "$1" /usr/bin/python3 "$work/ask" "${@:2}" ;;
        *) setpriv --reuid="$1" --regid="$1" --clear-groups /usr/bin/python3 "$work/ask" "${@:2}" ;;
    esac
}

failures=0
# expect <answers or refused> <who> <tcp or udp> <address> <port>
expect() {
    local found
    found=$(asks "${@:2}")
    [ "$found" != "$1" ] || return 0
    failures=$((failures + 1))
    say "FAILED: $2 to $4 port $5/$3: wanted: $1, found: $found"
}
# expect_swarm_ports <answers or refused> <who> <address>
expect_swarm_ports() {
    local port
    for port in $SWARM; do expect "$1" "$2" "${port%:*}" "$3" "${port#*:}"; done
}
load() { nft -f systemd/skep.nft; }

for _ in {1..50}; do
    [ "$(asks container tcp $METADATA 80)$(asks container tcp $NODE 9000)$(asks outside tcp $CONTAINER 8080)" != \
        answersanswersanswers ] || break
    sleep 0.1
done

# --- Without the rules everything is open: otherwise this test would show nothing ----------------------

for place in container $OTHER; do expect answers "$place" tcp $METADATA 80; done
expect answers container tcp $METADATA6 80
expect_swarm_ports answers container $OTHER_NODE
expect_swarm_ports answers container $GATEWAY

# --- With them, beside Docker's rules ------------------------------------------------------------------

# The kind of rules that Docker has: a published port, and another name for containers' addresses.
iptables -t nat -A PREROUTING ! -i docker0 -p tcp --dport 8000 -j DNAT --to-destination $CONTAINER:7946
iptables -t nat -A POSTROUTING -s 172.20.0.0/16 ! -o docker0 -j MASQUERADE
iptables -A FORWARD -i docker0 -j ACCEPT
iptables -S >"$work/dockers" && iptables -t nat -S >>"$work/dockers"
load

expect_rules() {
    for address in $METADATA $METADATA6; do
        expect answers 0 tcp "$address" 80
        expect answers $SKEP tcp "$address" 80
        expect refused $OTHER tcp "$address" 80
        expect refused container tcp "$address" 80
    done
    expect refused container udp $METADATA 8125
    expect refused $OTHER tcp $OTHER_NODE 2377
    expect refused $OTHER tcp fd10::2 2377
    expect answers $SKEP tcp $OTHER_NODE 2377
    expect_swarm_ports refused container $OTHER_NODE
    expect_swarm_ports refused container fd10::2
    expect_swarm_ports refused container $GATEWAY
    expect_swarm_ports refused container $NODE

    # Everything else stays as it was.
    expect answers $OTHER tcp $DNS 80
    expect answers container tcp $DNS 80
    expect answers container tcp $OTHER_NODE 8080
    expect answers container udp $OTHER_NODE 8125
    expect answers container tcp $NODE 9000
    expect_swarm_ports answers 0 $OTHER_NODE
    expect_swarm_ports answers outside $NODE
    # A container's own port may have any number.
    expect_swarm_ports answers outside $CONTAINER
    expect_swarm_ports answers 0 $CONTAINER
}
expect_rules
expect answers outside tcp $NODE 8000

nft list table inet skep | sed 's/counter.*/counter/' >"$work/once"
load
nft list table inet skep | sed 's/counter.*/counter/' | diff "$work/once" - || die "a second load changes the rules"
{ iptables -S && iptables -t nat -S; } | diff "$work/dockers" - || die "the rules change Docker's"

# As at a restart of Docker.
for table in filter nat; do iptables -t $table -F; done
expect_rules

# The kernel's own packets: data that a closed socket still has to deliver, and the overlay networks.
ip netns exec outside nft 'table inet cut { chain input { type filter hook input priority 0; tcp dport 80 tcp flags & syn == 0 drop; }; }'
setpriv --reuid=$SKEP --regid=$SKEP --clear-groups /usr/bin/python3 -c "
import socket
asks = socket.create_connection(('$METADATA', 80))
asks.send(b'last words')
asks.close()"
ip netns exec outside nft delete table inet cut
for _ in {1..50}; do ! grep -q 'last words' "$work/outside.log" || break; sleep 0.1; done
grep -q 'last words' "$work/outside.log" || { failures=$((failures + 1)); say "FAILED: a closed socket's data is lost"; }

mapfile -t running < <(jobs -p)
kill "${running[@]}"
wait
for here in "$NODE $OTHER_NODE 1" "$OTHER_NODE $NODE 2 -n outside"; do
    # shellcheck disable=SC2086
    set -- $here
    ip "${@:4}" link add vxlan0 type vxlan id 4097 local "$1" remote "$2" dstport 4789
    ip "${@:4}" address add "10.128.0.$3/24" dev vxlan0
    ip "${@:4}" link set vxlan0 up
done
ip netns exec outside /usr/bin/python3 "$work/answer" tcp:80 >/dev/null &
for _ in {1..50}; do [ "$(asks 0 tcp 10.128.0.2 80)" != answers ] || break; sleep 0.1; done
expect answers 0 tcp 10.128.0.2 80

# --- Additions of an administrator, and of the image's variable ----------------------------------------

echo "add element inet skep metadata_users { $OTHER }" >/etc/skep/firewall.d/50-agent.nft
load
expect answers $OTHER tcp $METADATA 80
expect refused container tcp $METADATA 80
sed -n "/^ *cat >.*<<'END'/,/^END/p" packer/provision/60-firewall.sh | sed '1d;$d' >/etc/skep/firewall.d/10-image.nft
load
for address in $METADATA $METADATA6; do expect answers container tcp "$address" 80; done
expect_swarm_ports refused container $OTHER_NODE

[ "$failures" -eq 0 ] || die "$failures of the packet filter's checks failed"
say "the packet filter passes and refuses packets as it should"

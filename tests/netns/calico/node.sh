#!/bin/busybox sh
# shellcheck shell=dash
# A virtual machine as a node of a Calico cluster: tunnel devices with their addresses, a way to each of the other node's blocks,
# nothing for addresses of its own that nobody has, and a pod behind a veth whose other end has Calico's MAC address. What is in
# capitals is set before (`peer.rs`).
set -ex

# BusyBox would take its own, which knows less.
ip() { /bin/ip "$@"; }

CALI=ee:ee:ee:ee:ee:ee
LINK_LOCAL=169.254.1.1

sysctl -w net.ipv4.ip_forward=1
sysctl -w net.ipv6.conf.all.forwarding=1
sysctl -w net.ipv4.conf.all.rp_filter=0
sysctl -w net.ipv4.conf.default.rp_filter=0
ip link set eth0 up
ethtool -K eth0 tx off gso off tso off gro off || true
ip link set eth0 down
ip link set eth0 up
ip address add "$UNDERLAY/24" dev eth0
ip -6 address add "$UNDERLAY_V6/64" dev eth0 nodad

ip link set tunl0 mtu 1480 up
ip address add "$IPIP_ADDRESS/32" dev tunl0
ip route add blackhole "$IPIP_BLOCK"
ip route add "$PEER_IPIP_BLOCK" via "$PEER" dev tunl0 onlink

ip link add vxlan.calico address "$MAC" type vxlan id 4096 dstport 4789 local "$UNDERLAY" dev eth0 nolearning
ip address add "$VXLAN_ADDRESS/32" dev vxlan.calico
ip link set vxlan.calico mtu 1450 up
ip route add blackhole "$VXLAN_BLOCK"
ip neigh add "$PEER_VXLAN_ADDRESS" lladdr "$PEER_MAC" dev vxlan.calico nud permanent
ip route add "$PEER_VXLAN_BLOCK" via "$PEER_VXLAN_ADDRESS" dev vxlan.calico onlink
bridge fdb append "$PEER_MAC" dst "$PEER" dev vxlan.calico

ip link add vxlan-v6.calico address "$MAC_V6" type vxlan id 4096 dstport 4789 local "$UNDERLAY_V6" dev eth0 nolearning
ip -6 address add "$V6_ADDRESS/128" dev vxlan-v6.calico nodad
ip link set vxlan-v6.calico mtu 1430 up
ip -6 route add blackhole "$V6_BLOCK"
ip -6 neigh add "$PEER_V6_ADDRESS" lladdr "$PEER_MAC_V6" dev vxlan-v6.calico nud permanent
ip -6 route add "$PEER_V6_BLOCK" via "$PEER_V6_ADDRESS" dev vxlan-v6.calico onlink
bridge fdb append "$PEER_MAC_V6" dst "$PEER_V6" dev vxlan-v6.calico

ip netns add pod
ip link add cali0 address "$CALI" type veth peer name eth0 netns pod
ip link set cali0 up
ip -n pod link set lo up
ip -n pod link set eth0 up
pod=$(ip netns exec pod cat /sys/class/net/eth0/address)
for address in "$POD_IPIP" "$POD_VXLAN" "$BORROWED"; do
    ip -n pod address add "$address/32" dev eth0
    ip route add "$address" dev cali0 scope link
    ip neigh add "$address" lladdr "$pod" dev cali0 nud permanent
done
ip -n pod neigh add "$LINK_LOCAL" lladdr "$CALI" dev eth0 nud permanent
ip -n pod route add "$LINK_LOCAL" dev eth0 scope link
ip -n pod route add "$PEER_IPIP_BLOCK" via "$LINK_LOCAL" dev eth0 src "$POD_IPIP"
ip -n pod route add "$PEER_VXLAN_BLOCK" via "$LINK_LOCAL" dev eth0 src "$POD_VXLAN"
ip -n pod -6 address add "$POD_V6/128" dev eth0 nodad
ip -n pod -6 neigh add fe80::1 lladdr "$CALI" dev eth0 nud permanent
ip -n pod -6 route add default via fe80::1 dev eth0
ip -6 route add "$POD_V6" dev cali0
ip -6 neigh add "$POD_V6" lladdr "$pod" dev cali0 nud permanent

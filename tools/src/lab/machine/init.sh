#!/bin/busybox sh
# shellcheck shell=dash
# The first process of a lab's virtual machine: mounts what programs expect, loads the modules in the order in which they
# were packed, and hands over to the guest, which does what it is told over the control port.
/bin/busybox --install -s /bin
export PATH=/bin
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs dev /dev
mkdir -p /dev/pts /dev/shm /run/netns /tmp /var/log
mount -t tmpfs tmpfs /run
mount -t tmpfs tmpfs /tmp
mkdir -p /run/netns
for module in /modules/*.ko; do
    insmod "$module" || echo "init: cannot load $module"
done
ip link set lo up
millrace-guest serve
echo "init: the guest ended with $?"
poweroff -f

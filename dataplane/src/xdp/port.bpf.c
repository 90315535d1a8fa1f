/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Steering program of pod ports and of the switch's side of the host port: everything goes to the switch, and nowhere
 * else. Without a socket the packet is dropped, so a pod fails closed: nothing it sends slips past a policy while the
 * switch is away.
 */
#include "steering.bpf.h"

SECTION(XDP_SECTION) int millrace_port(struct xdp_md *ctx)
{
	return to_switch(ctx, SLOT_PORT_TO_SWITCH, SLOT_PORT_DROPPED_NO_SOCKET);
}

const char program_license[] SECTION("license") = "Apache-2.0";

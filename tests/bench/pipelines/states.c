// A state machine over 4 KB of text, its tables in a map as a control plane compiles them: counts words, numbers and
// quoted strings.
#include "singles.h"

struct machine_value {
	__u8 class_of[256];
	__u8 next[64];   /* by state * 8 + class */
	__u32 counts[64]; /* what a transition adds: one count in each ten bits */
};
MAP(machine, ARRAY, 1, __u32, struct machine_value)

PROGRAM(states)
{
	BUFFER(b, r);
	struct machine_value *m = ARRAY_AT(machine, 0);
	if (!m)
		return ABORTED;
	__u32 state = 0;
	__u64 counts = 0;
	for (int i = 0; i < BUFFER_BYTES; i++) {
		__u32 transition = (state << 3 | m->class_of[b->bytes[i]]) & 63;
		counts += m->counts[transition];
		state = m->next[transition];
	}
	r->value = counts;
	return PASS;
}
ENTRY(states)

// The Internet checksum of 1,500 bytes, a 16-bit word at a time.
#include "singles.h"

PROGRAM(checksum)
{
	BUFFER(b, r);
	__u32 sum = 0;
	const __u16 *words = (const __u16 *)b->bytes;
	for (int i = 0; i < 1500 / 2; i++)
		sum += words[i];
	r->value = fold_checksum(sum);
	return PASS;
}
ENTRY(checksum)

// FNV-1a and a multiply-rotate hash of 1,500 bytes.
#include "singles.h"

PROGRAM(hash)
{
	BUFFER(b, r);
	__u64 fnv = 0xcbf29ce484222325ull, mixed = 0;
	for (int i = 0; i < 1500; i++)
		fnv = (fnv ^ b->bytes[i]) * 0x100000001b3ull;
	const __u32 *words = (const __u32 *)b->bytes;
	for (int i = 0; i < 1500 / 4; i++) {
		mixed ^= words[i] * 0xcc9e2d51u;
		mixed = (mixed << 13 | mixed >> 51) * 5 + 0xe6546b64;
	}
	r->value = fnv ^ mixed;
	return PASS;
}
ENTRY(hash)

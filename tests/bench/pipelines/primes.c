// The number of primes below 2,000 by trial division.
#include "singles.h"

PROGRAM(primes)
{
	struct result_value *r = ARRAY_AT(result, 0);
	if (!r)
		return ABORTED;
	__u32 count = 0;
	for (__u32 n = 2; n < 2000; n++) {
		int prime = 1;
		for (__u32 d = 2; d < 45; d++) {
			if (d * d > n)
				break;
			if (n % d == 0) {
				prime = 0;
				break;
			}
		}
		count += prime;
	}
	r->value = count;
	return PASS;
}
ENTRY(primes)

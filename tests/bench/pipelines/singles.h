// Programs without tail calls, over a buffer in a map: what is measured is plain code quality.
#pragma once

#include "pipeline.h"

#define BUFFER_BYTES 4096
struct buffer_value {
	__u8 bytes[BUFFER_BYTES];
};
struct result_value {
	__u64 value;
};
MAP(buffer, ARRAY, 1, __u32, struct buffer_value)
MAP(result, ARRAY, 1, __u32, struct result_value)

#define BUFFER(b, r)                                                                                         \
	struct buffer_value *b = ARRAY_AT(buffer, 0);                                                        \
	struct result_value *r = ARRAY_AT(result, 0);                                                        \
	if (!b || !r)                                                                                        \
	return ABORTED

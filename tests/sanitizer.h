// Which sanitizers a test is built with, for what cannot hold under them: UJIT_ASAN, UJIT_TSAN.
#pragma once

#ifdef __clang__ // LLVM's headers define __has_feature for every compiler
#define UJIT_ASAN __has_feature(address_sanitizer)
#define UJIT_TSAN __has_feature(thread_sanitizer)
#else
#ifdef __SANITIZE_ADDRESS__
#define UJIT_ASAN 1
#endif
#ifdef __SANITIZE_THREAD__
#define UJIT_TSAN 1
#endif
#endif

# make        build build/ujit-lto
# make demo   install what is missing, build, and fuse, run and check the example datapath
# make check  install what is missing, build and run every test; the last line is "N passed, N failed, N skipped"
# make bench [QUICK=1]   pipelines side by side: the kernel's own code, ours, fused, each optimisation left out, plain C
# make prove  prove the lowering of each instruction against the standard, with Z3; under five minutes
# make fuzz SECONDS=600 [SEED=1]   random pipelines through every executor
# make fuzz-parsers [FUZZ_MINUTES=30]   libFuzzer on what reads outside bytes, so many minutes of CPU time each:
#             instructions, objects, images, manifests, other texts
# make check-sanitizers   the whole suite under ASan and UBSan, and under TSan
# make check-vectors   the kernel's own test vectors, out of Debian's linux-source-6.1; a part of make check
# make check-kernel [KERNEL=6.1|6.12|all] [FILTER=...]   the tests that concern a kernel, in Debian's stock kernels under QEMU
# make check-kernel MANIFEST=x.ujit.yaml PACKETS=y.pcap [MAPS=seed.json] [CONTEXTS=c.json] [KERNEL=...]   a pipeline there:
#             original against installed (docs/check-kernel.md)
# make deps   install the Debian packages that a build needs (as root, or by sudo)

BUILD := build
PACKAGES := g++ cmake ninja-build ccache pkg-config llvm-19-dev clang-19 libbpf-dev libelf-dev libkmod-dev libtbb-dev \
            libpcap-dev libcli11-dev libgtest-dev libbenchmark-dev libz3-dev graphviz iproute2 \
            qemu-system-x86 busybox-static cpio kmod xz-utils e2fsprogs bpftool
SANITIZER_PACKAGES := libclang-rt-19-dev

.PHONY: all demo check check-sanitizers check-kernel prove fuzz fuzz-parsers check-vectors bench bench-code deps clean

all: $(BUILD)/build.ninja
	@cmake --build $(BUILD)

$(BUILD)/build.ninja: CMakeLists.txt CMakePresets.json
	@cmake --preset release

demo: deps
	@$(MAKE) --no-print-directory all
	@configs/demo.sh $(abspath $(BUILD))

check: deps
	@$(MAKE) --no-print-directory all
	@tests/check.sh $(BUILD)

# QUICK=1: a look in a few minutes; UPDATE=1: the table of README.md and docs/benchmark.md too
bench: all
	@cmake --build $(BUILD) --target bench-pipelines ujit-bench
	@$(BUILD)/ujit-bench $(abspath $(BUILD)) --code tests/bench/kernel-code $(if $(QUICK),--quick) \
	   $(if $(UPDATE),--update README.md --update docs/benchmark.md)

# The running kernel's code of the benchmark's pipelines, for machines where bpf() is not allowed (as root)
bench-code: all
	@cmake --build $(BUILD) --target bench-pipelines ujit-bench
	@$(BUILD)/ujit-bench $(abspath $(BUILD)) --keep tests/bench/kernel-code

prove: deps
	@cmake --preset release >/dev/null && cmake --build $(BUILD) --target ujit-prove && $(BUILD)/ujit-prove

SECONDS := 60
SEED := 1

fuzz: all
	@$(BUILD)/ujit-fuzz --seconds $(SECONDS) --seed $(SEED) --out $(BUILD)

FUZZ_MINUTES := 1
fuzz-parsers: PACKAGES += $(SANITIZER_PACKAGES)
fuzz-parsers: deps
	@$(MAKE) --no-print-directory all
	@cmake --preset debug >/dev/null && cmake --build build-debug --target decode_fuzz object_fuzz image_fuzz manifest_fuzz text_fuzz
	@tests/fuzz/run.sh $(BUILD) build-debug $(FUZZ_MINUTES)

# A stage of its own: two builds and two runs of the suite
check-sanitizers: PACKAGES += $(SANITIZER_PACKAGES)
check-sanitizers: deps
	@for preset in debug tsan; do cmake --preset $$preset >/dev/null && cmake --build build-$$preset || exit 1; done
	@tests/sanitizers/check.sh build-debug build-tsan

KERNEL := all
check-kernel: export BUILD := $(BUILD)
check-kernel: export FILTER := $(FILTER)
check-kernel: deps
	@$(MAKE) --no-print-directory all
	@$(if $(MANIFEST),tests/guest/check pipeline "$(KERNEL)" "$(MANIFEST)" "$(PACKETS)" "$(MAPS)" "$(CONTEXTS)",tests/guest/check tests "$(KERNEL)")

check-vectors: all
	@tests/vectors/check.sh $(BUILD)

deps:
	@missing=; for p in $(PACKAGES); do \
	   dpkg-query -W -f='$${db:Status-Status}' $$p 2>/dev/null | grep -qx installed || missing="$$missing $$p"; \
	 done; \
	 [ -z "$$missing" ] && exit 0; \
	 echo "installing:$$missing"; \
	 if [ "$$(id -u)" = 0 ]; then sudo=; elif command -v sudo >/dev/null; then sudo=sudo; else \
	   echo "not root and no sudo: please install these packages" >&2; exit 1; fi; \
	 $$sudo apt-get update -qq && $$sudo env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $$missing

clean:
	@rm -rf $(BUILD)

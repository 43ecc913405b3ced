# For the Makefile of a datapath: include this, and write
#
#     all: my-lb.ujit
#     my-lb.ujit: my_lb.bpf.o
#
# A bundle NAME.ujit (objects, manifest, image, plan, graph, report) is linked from NAME.ujit.yaml. It is linked
# again when the manifest, the tool or a prerequisite that is named for it changes, and the build fails with a
# message when a gate of the manifest is passed.
#
#     UJIT_LTO    the tool; default: ujit-lto in PATH
#     UJIT_FLAGS  more options of `ujit-lto link`, e.g. --threads 1

# Targets here are nobody's default goal.
UJIT_GOAL := $(.DEFAULT_GOAL)

UJIT_LTO ?= ujit-lto
UJIT_FLAGS ?=

# A tool that is named by a path is a prerequisite: a new tool makes new bundles.
UJIT_TOOL := $(if $(findstring /,$(UJIT_LTO)),$(wildcard $(UJIT_LTO)))

%.ujit: %.ujit.yaml $(UJIT_TOOL)
	$(UJIT_LTO) link $< --bundle -o $@ $(UJIT_FLAGS)
	@touch $@

.PHONY: ujit-clean
ujit-clean:
	rm -rf $(wildcard *.ujit)

.DEFAULT_GOAL := $(UJIT_GOAL)

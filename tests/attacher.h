// Programs that are attached to programs.
#pragma once

#include <bpf/libbpf.h>

#include <memory>
#include <string>

namespace ujit {

/// A program of tests/bpf/attach.bpf.c which is attached to a function of another program.
class Attacher {
public:
  /// Loads it. Returns why not, or nothing.
  std::string load(const char *program, int target, const char *function);
  /// Once: such a program cannot be attached again.
  bool attach();
  void detach() { link_.reset(); }

private:
  std::unique_ptr<bpf_object, decltype(&bpf_object__close)> object_{nullptr, bpf_object__close};
  std::unique_ptr<bpf_link, decltype(&bpf_link__destroy)> link_{nullptr, bpf_link__destroy};
  bpf_program *program_ = nullptr;
};

} // namespace ujit

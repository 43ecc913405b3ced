#include "tests/attacher.h"
#include "tests/paths.h"

#include <cerrno>
#include <cstring>

namespace ujit {

std::string Attacher::load(const char *program, int target, const char *function) {
  object_.reset(bpf_object__open((binary_dir() + "/tests/attach.bpf.o").c_str()));
  if (!object_)
    return "attach.bpf.o cannot be read";
  for (bpf_program *p = nullptr; (p = bpf_object__next_program(object_.get(), p));)
    bpf_program__set_autoload(p, std::strcmp(bpf_program__name(p), program) == 0);
  program_ = bpf_object__find_program_by_name(object_.get(), program);
  if (bpf_program__set_attach_target(program_, target, function) != 0 || bpf_object__load(object_.get()) != 0)
    return std::string("the attached program does not load: ") + std::strerror(errno);
  return "";
}

bool Attacher::attach() {
  link_.reset(bpf_program__attach(program_));
  return link_ != nullptr;
}

} // namespace ujit

#include "lto/contexts.h"

#include "translator/json.h"

#include "llvm/ADT/STLExtras.h"
#include "llvm/Support/FormatVariadic.h"

#include <arpa/inet.h>
#include <linux/bpf.h>

#include <cstddef>
#include <cstring>
#include <span>

namespace ujit {

using llvm::formatv;
namespace json = llvm::json;

namespace {

struct ContextField {
  std::string_view name;
  size_t offset, words;
};

std::span<const ContextField> fields_of(ProgType type) {
#define UJIT_FIELD(context, field) {#field, offsetof(context, field), sizeof(context::field) / 4}
  static constexpr ContextField skb[] = {
      UJIT_FIELD(__sk_buff, mark),     UJIT_FIELD(__sk_buff, priority),       UJIT_FIELD(__sk_buff, ifindex),
      UJIT_FIELD(__sk_buff, cb),       UJIT_FIELD(__sk_buff, wire_len),       UJIT_FIELD(__sk_buff, gso_segs),
      UJIT_FIELD(__sk_buff, gso_size), UJIT_FIELD(__sk_buff, ingress_ifindex)};
  static constexpr ContextField xdp[] = {UJIT_FIELD(xdp_md, ingress_ifindex),
                                         UJIT_FIELD(xdp_md, rx_queue_index)};
#undef UJIT_FIELD
  return type == ProgType::xdp ? std::span<const ContextField>(xdp) : skb;
}

LinkError refuse(const std::string &file, std::string message) {
  return input_error(std::move(message))
      .in_file(file)
      .with_hint(R"(the form is { "contexts": [ { "entry": "NAME", "mark": 1, "cb": [1, 2] } ] })");
}

std::optional<std::vector<uint32_t>> words_of(const json::Value &value) {
  std::vector<uint32_t> out;
  const json::Array one{value};
  for (const json::Value &v : value.getAsArray() ? *value.getAsArray() : one) {
    const std::optional<int64_t> number = v.getAsInteger();
    if (!number || *number < 0 || *number > UINT32_MAX)
      return std::nullopt;
    out.push_back(uint32_t(*number));
  }
  return out;
}

std::vector<uint8_t> address_of(const json::Object &object, llvm::StringRef key) {
  const std::string text = object.getString(key).value_or("").str();
  std::vector<uint8_t> out(16);
  if (inet_pton(AF_INET6, text.c_str(), out.data()) == 1)
    return out;
  out.resize(4);
  if (inet_pton(AF_INET, text.c_str(), out.data()) == 1)
    return out;
  return {};
}

std::optional<TunnelKey> tunnel_of(const json::Value &value) {
  const json::Object *object = value.getAsObject();
  if (!object || object->size() != 3)
    return std::nullopt;
  TunnelKey out;
  const std::optional<int64_t> id = object->getInteger("id");
  out.remote = address_of(*object, "remote");
  out.local = address_of(*object, "local");
  if (!id || *id < 0 || *id > UINT32_MAX || out.remote.empty() || out.remote.size() != out.local.size())
    return std::nullopt;
  out.id = uint32_t(*id);
  return out;
}

} // namespace

Expected<std::vector<RunContext>> parse_contexts(std::string_view text, const std::string &file) {
  Expected<json::Value> root = parse_json(text);
  if (!root)
    return refuse(file, "not JSON: " + llvm::toString(root.takeError())).error();
  const json::Object *object = root->getAsObject();
  const json::Array *contexts = object ? object->getArray("contexts") : nullptr;
  if (!contexts || object->size() != 1)
    return refuse(file, "there must be one member, 'contexts', with a list").error();
  std::vector<RunContext> out;
  for (const json::Value &item : *contexts) {
    const json::Object *fields = item.getAsObject();
    if (!fields)
      return refuse(file, formatv("context {0} must be an object", out.size() + 1)).error();
    RunContext c;
    c.text = formatv("{0}", item);
    for (const auto &[key, value] : *fields) {
      if (key == "entry") {
        if (!value.getAsString())
          return refuse(file, formatv("context {0}: 'entry' must be a name", out.size() + 1)).error();
        c.entry = value.getAsString()->str();
        continue;
      }
      if (key == "tunnel") {
        c.tunnel = tunnel_of(value);
        if (!c.tunnel)
          return refuse(file,
                        formatv("context {0}: 'tunnel' has 'id', and 'remote' and 'local' of one family",
                                out.size() + 1))
              .error();
        continue;
      }
      std::optional<std::vector<uint32_t>> words = words_of(value);
      if (!words)
        return refuse(file, formatv("context {0}: '{1}' must be a number of 32 bits, or a list of such",
                                    out.size() + 1, key.str()))
            .error();
      c.fields.emplace_back(key.str(), std::move(*words));
    }
    llvm::sort(c.fields);
    out.push_back(std::move(c));
  }
  return out;
}

Expected<std::vector<uint8_t>> context_bytes(const RunContext &context, ProgType type) {
  std::vector<uint8_t> out;
  if (context.tunnel && type != ProgType::sched_cls)
    return input_error(formatv("test runs of {0} programs know no tunnels", name_of(type))).error();
  if (context.fields.empty())
    return out;
  out.resize(type == ProgType::xdp ? sizeof(xdp_md) : sizeof(__sk_buff));
  for (const auto &[name, words] : context.fields) {
    const auto field = llvm::find_if(fields_of(type), [&](const ContextField &f) { return f.name == name; });
    if (field == fields_of(type).end() || words.size() > field->words)
      return input_error(formatv("test runs of {0} programs take no '{1}' of {2} words in their context",
                                 name_of(type), name, words.size()))
          .error();
    if (!words.empty())
      std::memcpy(out.data() + field->offset, words.data(), 4 * words.size());
  }
  return out;
}

} // namespace ujit

// libtorch for C: the few calls that serving a TorchScript archive takes. libtorch has no C API of its own.
//
// Compiled by scripts/setup.sh and found at run time; the build of this project never sees it. No exception, no C++ type
// and no thread crosses this border: a call that fails returns null and, by its last argument, a failure.
// Only what libtorch has had since 1.13 is used.

#include <ATen/Parallel.h>
#include <torch/csrc/jit/api/function_impl.h>
#include <torch/csrc/jit/ir/alias_analysis.h>
#include <torch/csrc/jit/runtime/graph_executor.h>
#include <torch/csrc/jit/runtime/print_handler.h>
#include <torch/script.h>
#include <torch/version.h>

#include <caffe2/serialize/read_adapter_interface.h>

#include <cstring>
#include <memory>
#include <new>
#include <string>
#include <unordered_map>
#include <vector>

// Raised with every change of what is declared here; crates/engine/src/torch/library.rs asks for its own.
#define PACKHORSE_TORCH_ABI 1

// Numbers of c10::ScalarType cross the border.
static_assert(int(c10::kByte) == 0 && int(c10::kChar) == 1 && int(c10::kShort) == 2 && int(c10::kInt) == 3, "");
static_assert(int(c10::kLong) == 4 && int(c10::kHalf) == 5 && int(c10::kFloat) == 6 && int(c10::kDouble) == 7, "");
static_assert(int(c10::kBool) == 11 && int(c10::kBFloat16) == 15, "");

// There with OpenBLAS alone, which otherwise starts a thread a core for every product.
extern "C" void openblas_set_num_threads(int threads) __attribute__((weak));

namespace jit = torch::jit;

namespace {

// What a caller can do about a failure.
enum Kind : int { kInvalid = 1, kUnsupported = 2, kExhausted = 3, kInternal = 4 };

struct Unsupported : std::runtime_error {
  using std::runtime_error::runtime_error;
};

struct Argument {
  std::string name;
  std::string type;
  bool tensor;
  // What is passed when nothing is given; none where something has to be.
  c10::optional<c10::IValue> otherwise;
  // Whether the graph writes into it, or into what it is a part of.
  bool written;
};

// Bytes in memory as libtorch reads a file.
class Memory final : public caffe2::serialize::ReadAdapterInterface {
 public:
  Memory(const char* bytes, size_t length) : bytes_(bytes), length_(length) {}
  size_t size() const override { return length_; }
  size_t read(uint64_t at, void* to, size_t count, const char*) const override {
    if (at >= length_) return 0;
    const size_t there = std::min(count, static_cast<size_t>(length_ - at));
    std::memcpy(to, bytes_ + at, there);
    return there;
  }

 private:
  const char* bytes_;
  size_t length_;
};

// What a model says while it runs is nobody's log.
#if TORCH_VERSION_MAJOR > 1
using Quiet = c10::WarningUtils::WarningHandlerGuard;
class Silent final : public c10::WarningHandler {
 public:
  void process(const c10::Warning&) override {}
};
#else
using Quiet = c10::Warning::WarningHandlerGuard;
class Silent final : public c10::WarningHandler {
 public:
  void process(const c10::SourceLocation&, const std::string&, bool) override {}
};
#endif

}  // namespace

extern "C" {

struct ph_torch_failure {
  int kind;
  std::string message;
};

struct ph_torch_module {
  jit::Module module;
  std::vector<Argument> arguments;
};

// A tensor that is lent: `data` is read until `give_back(owner)` is called, which happens once and whatever becomes of
// the call.
struct ph_torch_input {
  int dtype;
  int rank;
  const int64_t* dims;
  void* data;
  void* owner;
};

struct ph_torch_answer {
  // 0 is one tensor, 1 several in order, 2 several by name.
  int kind;
  std::vector<at::Tensor> tensors;
  std::vector<std::string> names;
};

struct ph_torch_output {
  at::Tensor tensor;
};

}  // extern "C"

namespace {

void fail(ph_torch_failure** failure, int kind, const char* message) noexcept {
  if (failure == nullptr) return;
  try {
    *failure = new ph_torch_failure{kind, message};
  } catch (...) {
    *failure = nullptr;
  }
}

bool says(const std::string& message, const char* words) { return message.find(words) != std::string::npos; }

// Runs `body`, and turns whatever it throws into a failure and null.
template <typename Body>
auto guarded(ph_torch_failure** failure, Body body) noexcept -> decltype(body()) {
  try {
    return body();
  } catch (const Unsupported& error) {
    fail(failure, kUnsupported, error.what());
  } catch (const std::bad_alloc&) {
    fail(failure, kExhausted, "there is no memory for it");
  } catch (const c10::Error& error) {
    // There is no type for it in older ones.
    const std::string message = error.what_without_backtrace();
    const int kind = says(message, "can't allocate memory") ? kExhausted
        : says(message, "INTERNAL ASSERT") ? kInternal
                                           : kInvalid;
    fail(failure, kind, message.c_str());
  } catch (const std::exception& error) {
    const std::string message = error.what();
    fail(failure, says(message, "can't allocate memory") ? kExhausted : kInvalid, message.c_str());
  } catch (...) {
    fail(failure, kInternal, "it threw what is no exception");
  }
  return nullptr;
}

// Once for the process: the thread that calls is the one that computes.
void settle() {
  static const bool settled = [] {
    at::set_num_threads(1);
    at::set_num_interop_threads(1);
    if (openblas_set_num_threads != nullptr) openblas_set_num_threads(1);
    // Profiling runs a graph slowly until it was seen twice, and compiles it again for other shapes.
    jit::getProfilingMode() = false;
    jit::setPrintHandler([](const std::string&) {});
    return true;
  }();
  (void)settled;
  // OpenMP keeps the number for each thread that calls.
  thread_local const bool here = [] {
    at::init_num_threads();
    return true;
  }();
  (void)here;
}

// Nodes of the largest graph that is taken, and how deep its functions may call each other. libtorch puts all of them into
// one graph, and what is called twice is there twice; it goes through a graph by recursion, too.
constexpr size_t kNodesMax = 50'000;
constexpr size_t kCallsMax = 500;

class Size final {
 public:
  // Nodes of `block` once everything that it calls is put in its place.
  size_t of(const jit::Block* block, size_t calls = 0) {
    size_t total = 0;
    for (const jit::Node* node : block->nodes()) {
      total += 1;
      for (const jit::Block* inner : node->blocks()) total += of(inner, calls);
      const jit::Function* called = callee(node);
      const jit::GraphFunction* graph = called != nullptr ? jit::tryToGraphFunction(*const_cast<jit::Function*>(called)) : nullptr;
      if (graph != nullptr) total += of_function(graph, calls + 1);
      if (total > kNodesMax || calls > kCallsMax) {
        throw Unsupported("its forward comes to more than " + std::to_string(kNodesMax) +
                          " operations, or to calls within calls without an end");
      }
    }
    return total;
  }

 private:
  size_t of_function(const jit::GraphFunction* function, size_t calls) {
    const auto known = known_.find(function);
    if (known != known_.end()) return known->second;
    const size_t size = of(function->graph()->block(), calls);
    known_.emplace(function, size);
    return size;
  }

  static const jit::Function* callee(const jit::Node* node) {
    if (node->kind() == c10::prim::CallFunction) {
      const auto type = node->input(0)->type()->cast<c10::FunctionType>();
      return type != nullptr ? type->function() : nullptr;
    }
    if (node->kind() != c10::prim::CallMethod) return nullptr;
    const auto type = node->input(0)->type()->cast<c10::ClassType>();
    return type != nullptr ? type->findMethod(node->s(c10::attr::name)) : nullptr;
  }

  std::unordered_map<const jit::GraphFunction*, size_t> known_;
};

// Whether `block` reads or writes what a frozen module could not fold away, which is what it changes as it runs.
std::string state(const jit::Block* block) {
  for (const jit::Node* node : block->nodes()) {
    if (node->kind() == c10::prim::SetAttr || node->kind() == c10::prim::GetAttr) return node->s(c10::attr::name);
    if (node->kind() == c10::prim::CallMethod) return node->s(c10::attr::name);
    for (const jit::Block* inner : node->blocks()) {
      std::string found = state(inner);
      if (!found.empty()) return found;
    }
    if (node->hasAttribute(c10::attr::Subgraph)) {
      std::string found = state(node->g(c10::attr::Subgraph)->block());
      if (!found.empty()) return found;
    }
  }
  return "";
}

bool is_tensor(const c10::TypePtr& type) {
  if (type->kind() == c10::TypeKind::TensorType) return true;
  const auto optional = type->cast<c10::OptionalType>();
  return optional != nullptr && optional->getElementType()->kind() == c10::TypeKind::TensorType;
}

std::vector<Argument> arguments(const jit::Method& forward) {
  const std::shared_ptr<jit::Graph> graph = forward.graph();
  const jit::AliasDb aliases(graph);
  const auto& declared = forward.function().getSchema().arguments();
  std::vector<Argument> found;
  // The first is the module itself.
  for (size_t index = 1; index < declared.size(); ++index) {
    const c10::Argument& argument = declared[index];
    c10::optional<c10::IValue> otherwise = argument.default_value();
    if (!otherwise && argument.type()->kind() == c10::TypeKind::OptionalType) otherwise = c10::IValue();
    const bool written = aliases.hasWriters(graph->inputs().at(index));
    found.push_back({argument.name(), argument.type()->annotation_str(), is_tensor(argument.type()), otherwise, written});
  }
  return found;
}

at::Tensor lent(const ph_torch_input& input, const std::shared_ptr<void>& owner, bool copy) {
  const auto dims = at::IntArrayRef(input.dims, static_cast<size_t>(input.rank));
  const auto options = at::TensorOptions().dtype(static_cast<at::ScalarType>(input.dtype)).device(at::kCPU);
  // What holds no bytes has no address.
  for (const int64_t dim : dims) {
    if (dim == 0) return at::empty(dims, options);
  }
  const at::Tensor tensor = at::from_blob(input.data, dims, [owner](void*) {}, options);
  return copy ? tensor.clone() : tensor;
}

// A tensor as its bytes lie in other runtimes: dense, in rows, in main memory.
at::Tensor dense(const c10::IValue& value) {
  if (!value.isTensor()) {
    throw Unsupported("its forward returns a " + value.type()->annotation_str() +
                      " among its answers, and only tensors can be served; return tensors");
  }
  const at::Tensor& tensor = value.toTensor();
  if (!tensor.defined() || tensor.layout() != at::kStrided || tensor.is_quantized() || !tensor.device().is_cpu()) {
    throw Unsupported("its forward returns a tensor that is sparse, quantised or elsewhere; return a dense one");
  }
  return tensor.resolve_neg().contiguous();
}

}  // namespace

// Nothing else of this file is seen from outside.
#pragma GCC visibility push(default)
extern "C" {

int ph_torch_abi() { return PACKHORSE_TORCH_ABI; }

const char* ph_torch_version() { return TORCH_VERSION; }

int ph_torch_failure_kind(const ph_torch_failure* failure) { return failure->kind; }

const char* ph_torch_failure_message(const ph_torch_failure* failure) { return failure->message.c_str(); }

void ph_torch_failure_free(ph_torch_failure* failure) { delete failure; }

// Reads the archive of `length` bytes at `bytes`, which are not needed afterwards.
ph_torch_module* ph_torch_load(const char* bytes, size_t length, ph_torch_failure** failure) {
  return guarded(failure, [&]() -> ph_torch_module* {
    settle();
    Silent silent;
    const Quiet quiet(&silent);
    const std::shared_ptr<caffe2::serialize::ReadAdapterInterface> memory = std::make_shared<Memory>(bytes, length);
    jit::Module module = jit::load(memory, c10::Device(at::kCPU));
    if (!module.find_method("forward")) throw Unsupported("it has no method 'forward'");
    Size().of(module.get_method("forward").graph()->block());
    module.eval();
    // Without what changes numbers: answers stay those of the module as it is in Python.
    module = jit::freeze(module, c10::nullopt, /*optimize_numerics=*/false);
    const jit::Method forward = module.get_method("forward");
    const std::string kept = state(forward.graph()->block());
    if (!kept.empty()) {
      throw Unsupported("its forward keeps '" + kept +
                        "' from one request to the next, so that what one client asks would change what another is "
                        "answered; take the state as an input and return it as an output");
    }
    // Compiled here, where there is the stack for it, and not by the first who asks.
    jit::Stack nothing;
    jit::toGraphFunction(forward.function()).get_executor().getPlanFor(nothing, c10::nullopt);
    return new ph_torch_module{module, arguments(forward)};
  });
}

void ph_torch_unload(ph_torch_module* module) { delete module; }

size_t ph_torch_arguments(const ph_torch_module* module) { return module->arguments.size(); }

const char* ph_torch_argument_name(const ph_torch_module* module, size_t index) {
  return module->arguments[index].name.c_str();
}

const char* ph_torch_argument_type(const ph_torch_module* module, size_t index) {
  return module->arguments[index].type.c_str();
}

// 1 for a tensor, 2 for what may be left out, 3 for both.
int ph_torch_argument_flags(const ph_torch_module* module, size_t index) {
  const Argument& argument = module->arguments[index];
  return (argument.tensor ? 1 : 0) | (argument.otherwise ? 2 : 0);
}

// Runs forward on `count` inputs, one an argument; null where an argument is left out. Several threads may call at once.
ph_torch_answer* ph_torch_run(const ph_torch_module* module, const ph_torch_input* const* inputs, size_t count,
                              void (*give_back)(void*), ph_torch_failure** failure) {
  return guarded(failure, [&]() -> ph_torch_answer* {
    // First of all, so that each is given back whatever happens.
    std::vector<std::shared_ptr<void>> owners(count);
    for (size_t index = 0; index < count; ++index) {
      if (inputs[index] != nullptr) owners[index] = std::shared_ptr<void>(inputs[index]->owner, give_back);
    }
    settle();
    Silent silent;
    const Quiet quiet(&silent);
    const c10::InferenceMode no_gradients;
    std::vector<c10::IValue> stack;
    for (size_t index = 0; index < count; ++index) {
      const Argument& argument = module->arguments.at(index);
      if (inputs[index] != nullptr) {
        stack.emplace_back(lent(*inputs[index], owners[index], argument.written));
      } else if (argument.otherwise) {
        stack.push_back(argument.otherwise->deepcopy());
      } else {
        throw Unsupported("its argument '" + argument.name + "' has to be given");
      }
    }
    const c10::IValue value = module->module.get_method("forward")(std::move(stack));
    auto answer = std::make_unique<ph_torch_answer>();
    if (value.isTensor()) {
      answer->tensors.push_back(dense(value));
    } else if (value.isTuple()) {
      answer->kind = 1;
      for (const c10::IValue& element : value.toTupleRef().elements()) answer->tensors.push_back(dense(element));
      const auto type = value.type()->cast<c10::TupleType>();
      if (type != nullptr && type->schema() != nullptr) {
        answer->kind = 2;
        for (const c10::Argument& field : type->schema()->arguments()) answer->names.push_back(field.name());
      }
    } else if (value.isList()) {
      answer->kind = 1;
      for (const c10::IValue& element : value.toListRef()) answer->tensors.push_back(dense(element));
    } else if (value.isGenericDict()) {
      answer->kind = 2;
      for (const auto& item : value.toGenericDict()) {
        if (!item.key().isString()) throw Unsupported("its forward returns a dict whose keys are no strings");
        answer->names.push_back(item.key().toStringRef());
        answer->tensors.push_back(dense(item.value()));
      }
    } else {
      throw Unsupported("its forward returns a " + value.type()->annotation_str() +
                        "; return a tensor, or a tuple, list or dict of tensors");
    }
    return answer.release();
  });
}

int ph_torch_answer_kind(const ph_torch_answer* answer) { return answer->kind; }

size_t ph_torch_answer_count(const ph_torch_answer* answer) { return answer->tensors.size(); }

const char* ph_torch_answer_name(const ph_torch_answer* answer, size_t index) {
  return index < answer->names.size() ? answer->names[index].c_str() : nullptr;
}

// The tensor `index` of `answer`, which outlives it.
ph_torch_output* ph_torch_answer_tensor(const ph_torch_answer* answer, size_t index) {
  return guarded(nullptr, [&] { return new ph_torch_output{answer->tensors.at(index)}; });
}

void ph_torch_answer_free(ph_torch_answer* answer) { delete answer; }

int ph_torch_output_dtype(const ph_torch_output* output) { return static_cast<int>(output->tensor.scalar_type()); }

size_t ph_torch_output_rank(const ph_torch_output* output) { return output->tensor.sizes().size(); }

const int64_t* ph_torch_output_dims(const ph_torch_output* output) { return output->tensor.sizes().data(); }

const void* ph_torch_output_data(const ph_torch_output* output) { return output->tensor.data_ptr(); }

size_t ph_torch_output_bytes(const ph_torch_output* output) { return output->tensor.nbytes(); }

void ph_torch_output_free(ph_torch_output* output) { delete output; }

}  // extern "C"
#pragma GCC visibility pop

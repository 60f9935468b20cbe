// libuip without Python: `libuip MODEL_FILE`. Exit code 0 if all checks pass; otherwise prints the first that fails.
#include <ATen/ATen.h>
#include <ATen/core/dispatch/Dispatcher.h>

#include <cstdlib>
#include <iostream>
#include <stdexcept>
#include <thread>

#include "comm.h"
#include "model.h"

namespace {

void require(bool holds, const std::string &what) {
  if (holds) return;
  std::cerr << "does not hold: " << what << std::endl;
  std::exit(1);
}

std::string message_of(const std::function<void()> &function) {
  try {
    function();
  } catch (const std::exception &error) {
    return error.what();
  }
  return "";
}

at::Tensor call(const char *name, const at::Tensor &x, const at::Tensor &carrier) {
  const auto op = c10::Dispatcher::singleton().findSchemaOrThrow(name, "");
  return op.typed<at::Tensor(const at::Tensor &, const at::Tensor &)>().call(x, carrier);
}

at::Tensor reverse(const at::Tensor &x, const at::Tensor &reverse, int64_t relation) {
  const auto op = c10::Dispatcher::singleton().findSchemaOrThrow("uip::reverse_edges", "");
  return op.typed<at::Tensor(const at::Tensor &, const at::Tensor &, int64_t)>().call(x, reverse, relation);
}

// Multiplies by a different number in each function, and records the calls.
class RecordingComm final : public uip::Comm {
 public:
  at::Tensor ghost_gather(const at::Tensor &x, int64_t num_rows) override { return answer("gather", 2, x, num_rows); }
  at::Tensor ghost_reduce(const at::Tensor &x, int64_t num_owned) override { return answer("reduce", 3, x, num_owned); }
  at::Tensor reverse_edges(const at::Tensor &x, const at::Tensor &, uip::Relation relation) override {
    last_relation = relation;
    return answer("reverse", 5, x, x.size(0));
  }
  at::Tensor all_gather(const at::Tensor &x, int64_t num_total) override { return answer("all", 7, x, num_total); }
  at::Tensor reduce_scatter(const at::Tensor &x, int64_t num_owned) override {
    return answer("scatter", 11, x, num_owned);
  }
  at::Tensor rank_layout(const at::Tensor &x) override { return answer("layout", 13, x, x.size(0)); }
  at::Tensor ring_shift(const at::Tensor &x, int64_t num_rows) override { return answer("shift", 17, x, num_rows); }

  std::string calls;
  uip::Relation last_relation = uip::Relation::edges;

 private:
  at::Tensor answer(const std::string &name, double factor, const at::Tensor &x, int64_t num_rows) {
    calls += name + std::to_string(num_rows) + " ";
    require(x.is_contiguous(), "a Comm receives contiguous tensors");
    return x.new_full({num_rows, x.size(1)}, factor);
  }
};

void ops_call_the_comm_that_is_set() {
  RecordingComm comm;
  const at::Tensor x = at::ones({4, 2}, at::kDouble).t().contiguous().t();  // not contiguous
  const at::Tensor few = at::empty({3}), many = at::empty({6});
  {
    const uip::UseComm use(&comm);
    require(call("uip::ghost_gather", x, many).sum().item<double>() == 2 * 12, "ghost_gather answers for 6 rows");
    require(call("uip::ghost_reduce", x, few).sum().item<double>() == 3 * 6, "ghost_reduce answers for 3 rows");
    require(call("uip::all_gather", x, many).sum().item<double>() == 7 * 12, "all_gather answers for 6 rows");
    require(call("uip::reduce_scatter", x, few).sum().item<double>() == 11 * 6, "reduce_scatter answers for 3 rows");
    require(reverse(x, few, 1).sum().item<double>() == 5 * 8, "reverse_edges answers");
    require(comm.last_relation == uip::Relation::bonds, "the relation is passed on");
  }
  require(comm.calls == "gather6 reduce3 all6 scatter3 reverse4 ", "each op calls its function, got " + comm.calls);
  require(call("uip::all_gather", x, x).equal(x), "without a Comm the ops are serial");
}

void use_comm_restores_what_was_before() {
  RecordingComm outer, inner;
  const uip::UseComm use(&outer);
  message_of([&] {
    const uip::UseComm nested(&inner);
    require(uip::current_comm() == &inner, "the inner Comm is in use");
    throw std::runtime_error("leave");
  });
  require(uip::current_comm() == &outer, "the outer Comm is back after an exception");
  std::thread([] { require(uip::current_comm() == nullptr, "another thread has a Comm of its own"); }).join();
}

// Autograd may run backward passes on threads of its own, where no Comm was set.
void backward_on_another_thread_uses_the_comm_of_its_forward() {
  RecordingComm comm;
  const at::Tensor x = at::ones({4, 2}, at::kDouble).requires_grad_();
  at::Tensor y;
  {
    const uip::UseComm use(&comm);
    y = call("uip::ghost_gather", x, at::empty({6})).sum() + reverse(x, at::empty({4}), 1).sum();
  }
  std::thread([&] { y.backward(); }).join();
  require(comm.calls.find("reduce4") != std::string::npos, "the gradient went through ghost_reduce");
  require(comm.calls.find("reverse4 ") != comm.calls.rfind("reverse4 "), "and once more through reverse_edges");
  require(x.grad().sum().item<double>() == (3 + 5) * 8, "the gradient is what the Comm gave");
}

void elements_have_symbols_and_masses() {
  for (int64_t z = 1; z <= 118; ++z) {
    require(uip::atomic_number(uip::element_symbol(z)) == z, "symbols and numbers agree for " + std::to_string(z));
    require(uip::standard_mass(z) > 0.9 * z, "masses are those of nuclei");
  }
  require(uip::element_symbol(14) == "Si" && std::abs(uip::standard_mass(14) - 28.085) < 1e-3, "14 is silicon");
  require(message_of([] { uip::atomic_number("si"); }) == "'si' is not the symbol of an element; did you mean 'Si'?",
          "a misspelt symbol gets a suggestion");
  require(message_of([] { uip::element_symbol(119); }) == "an atomic number must be between 1 and 118, got 119",
          "numbers beyond the table are refused");
}

void a_file_runs(const std::string &path) {
  const auto model = uip::Model::load(path, uip::Trust::given(""));
  require(model->metadata().dtype == "float64", "metadata is read");
  require(model->metadata().hash.size() == 64, "the file has a hash");
  const auto longs = [](std::vector<int64_t> values) { return at::tensor(values, at::kLong); };
  const at::Tensor vector = at::tensor({0.3, 0.4, 1.9}, at::kDouble);
  const std::map<std::string, at::Tensor> inputs = {{"atomic_numbers", longs({14, 8})},
                                                    {"graph_index", longs({0, 0})},
                                                    {"edge_index", longs({0, 1, 1, 0}).view({2, 2})},
                                                    {"edge_vec", at::stack({vector, -vector})},
                                                    {"bond_index", longs({0, 1})},
                                                    {"reverse_bond", longs({1, 0})},
                                                    {"angle_index", at::empty({2, 0}, at::kLong)},
                                                    {"spin", longs({1})}};
  const auto outputs = model->run(inputs);
  require(outputs.at("node_energy").sizes() == at::IntArrayRef({2}), "an energy for each atom");
  const at::Tensor force = outputs.at("edge_grad")[0] - outputs.at("edge_grad")[1];
  const auto energy = [&](double scale) {
    auto moved = inputs;
    moved["edge_vec"] = scale * inputs.at("edge_vec");
    return model->run(moved).at("node_energy").sum().item<double>();
  };
  const double slope = (energy(1 + 1e-5) - energy(1 - 1e-5)) / 2e-5;
  require(std::abs((force * vector).sum().item<double>() - slope) < 1e-7 * std::max(1.0, std::abs(slope)),
          "edge_grad is the derivative of the energy");
}

}  // namespace

int main(int, char **arguments) {
  ops_call_the_comm_that_is_set();
  use_comm_restores_what_was_before();
  backward_on_another_thread_uses_the_comm_of_its_forward();
  elements_have_symbols_and_masses();
  a_file_runs(arguments[1]);
  require(
      message_of([] { uip::Model::load("none.pt2", uip::Trust::given("")); }) == "cannot load none.pt2: no such file",
      "missing files");
  std::cout << "all holds\n";
}

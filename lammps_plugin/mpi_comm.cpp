// SPDX-License-Identifier: GPL-2.0-only
#include "mpi_comm.h"

#include <ATen/Functions.h>

#include <cstring>
#include <stdexcept>
#include <utility>

#include "counts.h"

/// Whether an exchange is lost. Defined by tests alone, in a library that they load before all others.
extern "C" __attribute__((weak)) bool uip_test_drops(const char *what);

namespace uip::lammps {
namespace {

constexpr int TAG = 0;  // messages between two ranks of one communicator keep their order

constexpr int64_t gathered_bytes = int64_t{1} << 30;  // above it, on each rank, keys are passed around the ring

/// One row as an MPI type: counts are rows, messages may exceed 2^31 bytes.
class RowType {
 public:
  explicit RowType(const at::Tensor &x) : bytes_(x.element_size()) {
    for (int64_t axis = 1; axis < x.dim(); ++axis) bytes_ *= x.size(axis);
    MPI_Type_contiguous(as_count(bytes_, "bytes in a row"), MPI_BYTE, &type_);
    MPI_Type_commit(&type_);
  }
  ~RowType() { MPI_Type_free(&type_); }
  RowType(const RowType &) = delete;
  RowType &operator=(const RowType &) = delete;

  MPI_Datatype get() const { return type_; }
  int64_t bytes() const { return bytes_; }

 private:
  int64_t bytes_;
  MPI_Datatype type_ = {};
};

#ifndef MPI_STUBS
/// The ranks of this computer, in the order of `comm`.
class Node {
 public:
  explicit Node(MPI_Comm comm) {
    int rank = 0;
    MPI_Comm_rank(comm, &rank);
    MPI_Comm_split_type(comm, MPI_COMM_TYPE_SHARED, rank, MPI_INFO_NULL, &comm_);
  }
  ~Node() { MPI_Comm_free(&comm_); }
  Node(const Node &) = delete;
  Node &operator=(const Node &) = delete;

  MPI_Comm get() const { return comm_; }

 private:
  MPI_Comm comm_ = MPI_COMM_NULL;
};
#endif

/// What a call only reads: the MPI of a serial LAMMPS takes pointers that are not const.
template <typename T>
T *read_only(const T *data) {
  return const_cast<T *>(data);
}

std::string broadcast(const std::string &mine, int root, MPI_Comm comm) {
  int length = as_count(static_cast<int64_t>(mine.size()), "characters in a message");
  MPI_Bcast(&length, 1, MPI_INT, root, comm);
  std::string text = mine;
  text.resize(length);
  MPI_Bcast(text.data(), length, MPI_CHAR, root, comm);
  return text;
}

at::Tensor rows_like(const at::Tensor &x, int64_t num_rows) {
  auto shape = x.sizes().vec();
  shape[0] = num_rows;
  return at::empty(shape, x.options());
}

}  // namespace

MpiComm::MpiComm(MPI_Comm world) {
  MPI_Comm_dup(world, &comm_);
  MPI_Comm_rank(comm_, &rank_);
  MPI_Comm_size(comm_, &num_ranks_);
  owned_counts_.assign(num_ranks_, 0);
  const std::vector<int> none(num_ranks_, 0);
  const auto no_rows = at::empty({0}, at::kLong);
  ghosts_ = {no_rows, {none, none}};
  relations_.fill({no_rows, {none, none}});
}

MpiComm::~MpiComm() { MPI_Comm_free(&comm_); }

NodePlace MpiComm::place_on_node() const {
#ifdef MPI_STUBS  // a serial LAMMPS
  return {};
#else
  const Node node(comm_);
  NodePlace place;
  MPI_Comm_rank(node.get(), &place.rank);
  MPI_Comm_size(node.get(), &place.num_ranks);
  return place;
#endif
}

std::string MpiComm::text_of_first_on_node(const std::string &mine) const {
#ifdef MPI_STUBS
  return mine;
#else
  const Node node(comm_);
  return broadcast(mine, 0, node.get());
#endif
}

Route MpiComm::route(const std::vector<int> &send) const {
  Route route{send, std::vector<int>(num_ranks_)};
  MPI_Alltoall(route.send.data(), 1, MPI_INT, route.receive.data(), 1, MPI_INT, comm_);
  return route;
}

at::Tensor MpiComm::exchange(const at::Tensor &rows, const Route &route) {
  check_rows("exchange", rows.size(0), total(route.send));
  const auto sent = rows.cpu().contiguous();
  auto received = rows_like(sent, total(route.receive));
  const RowType row(sent);
  const auto from = offsets(route.send), to = offsets(route.receive);
  const auto *source = static_cast<const char *>(sent.const_data_ptr());
  auto *target = static_cast<char *>(received.mutable_data_ptr());

  std::vector<MPI_Request> requests;
  std::vector<int> expected;
  for (int p = 0; p < num_ranks_; ++p) {
    if (route.receive[p] == 0 || p == rank_) continue;
    MPI_Irecv(target + to[p] * row.bytes(), route.receive[p], row.get(), p, TAG, comm_, &requests.emplace_back());
    expected.push_back(route.receive[p]);
  }
  for (int p = 0; p < num_ranks_; ++p) {
    if (route.send[p] == 0) continue;
    if (p == rank_) {
      std::memcpy(target + to[p] * row.bytes(), source + from[p] * row.bytes(), route.send[p] * row.bytes());
      continue;
    }
    MPI_Isend(source + from[p] * row.bytes(), route.send[p], row.get(), p, TAG, comm_, &requests.emplace_back());
    count_sent(route.send[p] * row.bytes(), 1);
  }
  std::vector<MPI_Status> statuses(requests.size());
  MPI_Waitall(static_cast<int>(requests.size()), requests.data(), statuses.data());
  for (size_t k = 0; k < expected.size(); ++k) {
    int count = 0;
    MPI_Get_count(&statuses[k], row.get(), &count);
    check_rows("exchange", count, expected[k]);
  }
  return received.to(rows.device());
}

std::string MpiComm::first_text(const std::string &mine) const { return agree(mine, {}).text; }

MpiComm::Agreement MpiComm::agree(const std::string &mine, const Flags &flags) const {
  const std::array<int, 3> sent = {mine.empty() ? num_ranks_ : rank_, flags.strained ? 0 : 1, flags.overlap ? 0 : 1};
  std::array<int, 3> least = {};
  MPI_Allreduce(read_only(sent.data()), least.data(), 3, MPI_INT, MPI_MIN, comm_);
  const int first = least[0];
  const Flags any = {least[1] == 0, least[2] == 0};
  if (first == num_ranks_) return {"", any};
  return {broadcast(mine, first, comm_), any};
}

std::vector<double> MpiComm::sum(const std::vector<double> &mine) const {
  std::vector<double> total(mine.size());
  const int count = as_count(static_cast<int64_t>(mine.size()), "numbers");
  MPI_Reduce(read_only(mine.data()), total.data(), count, MPI_DOUBLE, MPI_SUM, 0, comm_);
  MPI_Bcast(total.data(), count, MPI_DOUBLE, 0, comm_);
  return total;
}

std::vector<double> MpiComm::max(const std::vector<double> &mine) const {
  std::vector<double> result(mine.size());
  MPI_Allreduce(read_only(mine.data()), result.data(), as_count(static_cast<int64_t>(mine.size()), "numbers"),
                MPI_DOUBLE, MPI_MAX, comm_);
  return result;
}

std::string MpiComm::text_of_rank_0(const std::string &mine) const { return first_text(rank_ == 0 ? mine : ""); }

void MpiComm::set_rows(int64_t num_owned, const at::Tensor &wanted, const std::vector<int> &counts) {
  num_owned_ = num_owned;
  num_ghosts_ = wanted.size(0);
  const int mine = as_count(num_owned, "atoms on a rank");
  MPI_Allgather(read_only(&mine), 1, MPI_INT, owned_counts_.data(), 1, MPI_INT, comm_);
  const Route asking = route(counts);
  ghosts_ = {exchange(wanted, asking), asking.reversed()};
}

void MpiComm::set_relation(Relation relation, at::Tensor rows, Route route) {
  relations_.at(static_cast<size_t>(relation)) = {std::move(rows), std::move(route)};
}

at::Tensor MpiComm::ghost_gather(const at::Tensor &x, int64_t num_rows) {
  check_rows("ghost_gather", x.size(0), num_owned_);
  check_rows("ghost_gather", num_rows, num_owned_ + num_ghosts_);
  auto received = exchange(x.index_select(0, ghosts_.rows.to(x.device())), ghosts_.route);
  if (is_dropped("forward")) received.zero_();
  return at::cat({x, received});
}

at::Tensor MpiComm::ghost_reduce(const at::Tensor &x, int64_t num_owned) {
  check_rows("ghost_reduce", num_owned, num_owned_);
  check_rows("ghost_reduce", x.size(0), num_owned_ + num_ghosts_);
  auto received = exchange(x.narrow(0, num_owned_, num_ghosts_), ghosts_.route.reversed());
  if (is_dropped("reverse")) received.zero_();
  return x.narrow(0, 0, num_owned_).clone().index_add_(0, ghosts_.rows.to(x.device()), received);
}

at::Tensor MpiComm::reverse_edges(const at::Tensor &x, const at::Tensor &reverse, Relation relation) {
  const auto &[rows, route] = relations_.at(static_cast<size_t>(relation));
  check_rows("reverse_edges", x.size(0), reverse.size(0));
  auto received = exchange(x.index_select(0, rows.to(x.device())), route);
  if (is_dropped("edges")) received.zero_();
  return at::cat({x, received}).index_select(0, reverse);
}

at::Tensor MpiComm::all_gather(const at::Tensor &x, int64_t num_total) {
  check_rows("all_gather", x.size(0), num_owned_);
  check_rows("all_gather", num_total, total(owned_counts_));
  const auto mine = x.cpu().contiguous();
  auto gathered = rows_like(mine, num_total);
  const RowType row(mine);
  const auto starts = int_offsets(owned_counts_);
  MPI_Allgatherv(read_only(mine.const_data_ptr()), owned_counts_[rank_], row.get(), gathered.mutable_data_ptr(),
                 owned_counts_.data(), read_only(starts.data()), row.get(), comm_);
  if (num_owned_ > 0) count_sent((num_ranks_ - 1) * num_owned_ * row.bytes(), num_ranks_ - 1);
  return gathered.to(x.device());
}

at::Tensor MpiComm::reduce_scatter(const at::Tensor &x, int64_t num_owned) {
  check_rows("reduce_scatter", num_owned, num_owned_);
  check_rows("reduce_scatter", x.size(0), total(owned_counts_));
  // each rank receives its rows from all ranks and adds them in rank order: the same sum on every run
  const Route route{owned_counts_, std::vector<int>(num_ranks_, owned_counts_[rank_])};
  auto shape = x.sizes().vec();
  shape[0] = num_owned_;
  shape.insert(shape.begin(), num_ranks_);
  return exchange(x, route).view(shape).sum(0);
}

at::Tensor MpiComm::rank_layout(const at::Tensor &x) {
  // present at the same time: keys, values and their gradients
  const int64_t bytes = 4 * total(owned_counts_) * x.size(1) * static_cast<int64_t>(x.element_size());
  const bool ring = attention_ == Attention::ring || (attention_ == Attention::automatic && bytes > gathered_bytes);
  auto layout = at::empty({2 + num_ranks_}, at::kLong);
  auto *value = layout.mutable_data_ptr<int64_t>();
  value[0] = rank_;
  value[1] = ring ? 1 : 0;
  std::copy(owned_counts_.begin(), owned_counts_.end(), value + 2);
  return layout;
}

at::Tensor MpiComm::ring_shift(const at::Tensor &x, int64_t num_rows) {
  Route route{std::vector<int>(num_ranks_, 0), std::vector<int>(num_ranks_, 0)};
  route.send[(rank_ + 1) % num_ranks_] = as_count(x.size(0), "rows on a rank");
  route.receive[(rank_ + num_ranks_ - 1) % num_ranks_] = as_count(num_rows, "rows on a rank");
  return exchange(x, route);
}

void MpiComm::count_sent(int64_t bytes, int64_t messages) {
  bytes_sent_ += bytes;
  messages_sent_ += messages;
}

/// Exchanges of programs alone, not those of the graph.
bool MpiComm::is_dropped(const char *what) const {
  return uip_test_drops != nullptr && uip_test_drops(what) && current_comm() == this;
}

void MpiComm::check_rows(const char *op, int64_t got, int64_t wanted) const {
  if (got == wanted) return;
  throw std::runtime_error(std::string(op) + " on rank " + std::to_string(rank_) + " must have " +
                           std::to_string(wanted) + " rows, got " + std::to_string(got) +
                           "; the model file and the plugin disagree on the rows of each rank; export the model again");
}

}  // namespace uip::lammps

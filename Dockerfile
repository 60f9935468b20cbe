# uip with LAMMPS, OpenMM and the published CHGNet, from a wheel. Not tested yet. The commands are those of the README.
#
#     docker build -t uip .
#     docker run --rm -v "$PWD:/work" uip mpiexec -n 2 lmp -in in.spinel
FROM python:3.11-bookworm AS build
COPY . /build/uip
RUN make -C /build/uip wheel

# no compiler here: `uip export` writes .pt files; install g++ for .pt2
FROM python:3.11-slim-bookworm
RUN pip install --no-cache-dir torch==2.13.0
COPY --from=build /build/uip/dist /dist
RUN pip install --no-cache-dir /dist/uip-*.whl && pip install --no-cache-dir --no-deps chgnet==0.4.2
WORKDIR /work
CMD ["uip", "doctor"]

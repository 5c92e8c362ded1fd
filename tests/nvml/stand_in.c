/*
 * A stand-in for libnvidia-ml.so.1, the library through which NVIDIA's driver answers questions.
 *
 * It answers from the text file that NVML_STAND_IN_STATE names, and reads that file anew at every
 * call, so a test changes the machine by replacing the file. One "key value" per line:
 *
 *     driver 580.12             what nvmlSystemGetDriverVersion says
 *     init 9                    the code that initialising returns; 0 without it
 *     gpu                       begins the next GPU; GPUs are numbered in the order of the file
 *     name NVIDIA H100          to the end of the line
 *     uuid GPU-0000
 *     pci 00000000:01:00.0
 *     total 1000                bytes; likewise used and reserved
 *     utilisation 40            percent; not supported without it
 *     mig 1                     0 or 1; not supported without it
 *     process 4242 1000         a CUDA program's id and bytes, any number of them; likewise desktop
 *     refuse memory 15          the code that a kind of question returns: lookup, memory, name, uuid,
 *                               pci, index, utilisation, processes, mig, or all; uuid-lookup on any
 *                               GPU fails the look-up of every GPU by UUID, as a lost GPU may
 *
 * Compile with -DWITHOUT_MEMORY_V2 or -DWITHOUT_PROCESSES_V3 for a driver too old to have these calls.
 * stand_in_sessions(), which the real library doesn't have, counts the sessions left open.
 */
#define _GNU_SOURCE
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
    SUCCESS = 0,
    UNINITIALIZED = 1,
    INVALID_ARGUMENT = 2,
    NOT_SUPPORTED = 3,
    NOT_FOUND = 6,
    INSUFFICIENT_SIZE = 7,
    DRIVER_NOT_LOADED = 9,
    VERSION_MISMATCH = 25,
};

enum { MAX_GPUS = 8, MAX_PROCESSES = 16, MAX_REFUSALS = 8, ABSENT = -1 };

/* The layouts below are those of nvml.h. */
struct memory { unsigned long long total, free, used; };
struct memory_v2 { unsigned int version; unsigned long long total, reserved, free, used; };
struct utilisation { unsigned int gpu, memory; };
struct process {
    unsigned int pid;
    unsigned long long bytes;
    unsigned int gpu_instance, compute_instance;
};
struct pci {
    char legacy_bus_id[16];
    unsigned int domain, bus, device, device_id, subsystem_id;
    char bus_id[32];
};

struct processes { unsigned int count; struct process list[MAX_PROCESSES]; };
struct refusal { char question[32]; int code; };
struct gpu {
    char name[96], uuid[96], pci[32];
    unsigned long long total, used, reserved;
    int utilisation, mig;
    struct processes computing, drawing;
    int refusals;
    struct refusal refused[MAX_REFUSALS];
};
struct machine { char driver[80]; int init, gpus; struct gpu gpu[MAX_GPUS]; };

/* One copy per thread, because the real library may be called from many at once. */
static _Thread_local struct machine machine;
static atomic_int sessions;

/* ---- the state file ---- */

static struct gpu *add_gpu(void) {
    if (machine.gpus == MAX_GPUS)
        return NULL;
    struct gpu *gpu = &machine.gpu[machine.gpus++];
    gpu->utilisation = ABSENT;
    gpu->mig = ABSENT;
    return gpu;
}

static void add_process(struct processes *processes, const char *value) {
    if (processes->count == MAX_PROCESSES)
        return;
    struct process *process = &processes->list[processes->count++];
    sscanf(value, "%u %llu", &process->pid, &process->bytes);
    process->gpu_instance = process->compute_instance = 0xFFFFFFFF;
}

static void add_refusal(struct gpu *gpu, const char *value) {
    if (gpu->refusals == MAX_REFUSALS)
        return;
    struct refusal *refusal = &gpu->refused[gpu->refusals++];
    sscanf(value, "%31s %d", refusal->question, &refusal->code);
}

static void set_gpu(struct gpu *gpu, const char *key, const char *value) {
    if (!strcmp(key, "name"))
        snprintf(gpu->name, sizeof gpu->name, "%s", value);
    else if (!strcmp(key, "uuid"))
        snprintf(gpu->uuid, sizeof gpu->uuid, "%s", value);
    else if (!strcmp(key, "pci"))
        snprintf(gpu->pci, sizeof gpu->pci, "%s", value);
    else if (!strcmp(key, "total"))
        gpu->total = strtoull(value, NULL, 10);
    else if (!strcmp(key, "used"))
        gpu->used = strtoull(value, NULL, 10);
    else if (!strcmp(key, "reserved"))
        gpu->reserved = strtoull(value, NULL, 10);
    else if (!strcmp(key, "utilisation"))
        gpu->utilisation = atoi(value);
    else if (!strcmp(key, "mig"))
        gpu->mig = atoi(value);
    else if (!strcmp(key, "process"))
        add_process(&gpu->computing, value);
    else if (!strcmp(key, "desktop"))
        add_process(&gpu->drawing, value);
    else if (!strcmp(key, "refuse"))
        add_refusal(gpu, value);
}

static int read_machine(void) {
    const char *path = getenv("NVML_STAND_IN_STATE");
    FILE *file = path ? fopen(path, "r") : NULL;
    if (!file)
        return DRIVER_NOT_LOADED;
    memset(&machine, 0, sizeof machine);
    struct gpu *gpu = NULL;
    char line[256];
    while (fgets(line, sizeof line, file)) {
        line[strcspn(line, "\n")] = 0;
        char *value = line;
        const char *key = strsep(&value, " ");
        if (!strcmp(key, "gpu"))
            gpu = add_gpu();
        else if (value && !strcmp(key, "driver"))
            snprintf(machine.driver, sizeof machine.driver, "%s", value);
        else if (value && !strcmp(key, "init"))
            machine.init = atoi(value);
        else if (value && gpu)
            set_gpu(gpu, key, value);
    }
    fclose(file);
    return SUCCESS;
}

/* ---- sessions ---- */

int nvmlInitWithFlags(unsigned int flags) {
    (void)flags;
    int code = read_machine();
    if (code == SUCCESS)
        code = machine.init;
    if (code == SUCCESS)
        sessions++;
    return code;
}

int nvmlInit_v2(void) { return nvmlInitWithFlags(0); }

int nvmlInit(void) { return nvmlInitWithFlags(0); } /* PyTorch asks for this name */

int nvmlShutdown(void) {
    if (!sessions)
        return UNINITIALIZED;
    sessions--;
    return SUCCESS;
}

int stand_in_sessions(void) { return sessions; }

const char *nvmlErrorString(int code) {
    (void)code;
    return "stand-in error";
}

/* ---- which GPU: a handle is the GPU's place in the file, plus one, as NULL is no handle ---- */

static int enter(void) { return sessions ? read_machine() : UNINITIALIZED; }

static int refusal_of(const struct gpu *gpu, const char *question) {
    for (int i = 0; i < gpu->refusals; i++)
        if (!strcmp(gpu->refused[i].question, question))
            return gpu->refused[i].code;
    return SUCCESS;
}

/* Finds the GPU behind a handle, and whether it answers this kind of question. */
static int consult(void *handle, const char *question, struct gpu **gpu) {
    int code = enter();
    if (code != SUCCESS)
        return code;
    uintptr_t place = (uintptr_t)handle;
    if (place < 1 || place > (uintptr_t)machine.gpus)
        return INVALID_ARGUMENT;
    *gpu = &machine.gpu[place - 1];
    code = refusal_of(*gpu, "all");
    return code != SUCCESS ? code : refusal_of(*gpu, question);
}

static int hand_out(int place, void **handle) {
    *handle = (void *)(uintptr_t)(place + 1);
    return refusal_of(&machine.gpu[place], "lookup");
}

int nvmlDeviceGetCount_v2(unsigned int *count) {
    int code = enter();
    *count = machine.gpus;
    return code;
}

int nvmlDeviceGetHandleByIndex_v2(unsigned int index, void **handle) {
    int code = enter();
    if (code != SUCCESS)
        return code;
    return index < (unsigned int)machine.gpus ? hand_out(index, handle) : INVALID_ARGUMENT;
}

int nvmlDeviceGetHandleByUUID(const char *uuid, void **handle) {
    int code = enter();
    if (code != SUCCESS)
        return code;
    for (int i = 0; i < machine.gpus; i++)
        if ((code = refusal_of(&machine.gpu[i], "uuid-lookup")) != SUCCESS)
            return code;
    for (int i = 0; i < machine.gpus; i++)
        if (!strcmp(uuid, machine.gpu[i].uuid))
            return hand_out(i, handle);
    return NOT_FOUND;
}

static int parse_pci(const char *text, unsigned int parts[4]) {
    return sscanf(text, "%x:%x:%x.%x", &parts[0], &parts[1], &parts[2], &parts[3]) == 4;
}

int nvmlDeviceGetHandleByPciBusId_v2(const char *pci, void **handle) {
    int code = enter();
    if (code != SUCCESS)
        return code;
    unsigned int wanted[4], found[4];
    if (!parse_pci(pci, wanted))
        return INVALID_ARGUMENT;
    for (int i = 0; i < machine.gpus; i++)
        if (parse_pci(machine.gpu[i].pci, found) && !memcmp(wanted, found, sizeof found))
            return hand_out(i, handle);
    return NOT_FOUND;
}

/* ---- questions ---- */

int nvmlSystemGetDriverVersion(char *version, unsigned int length) {
    int code = enter();
    snprintf(version, length, "%s", machine.driver);
    return code;
}

int nvmlDeviceGetIndex(void *handle, unsigned int *index) {
    struct gpu *gpu;
    int code = consult(handle, "index", &gpu);
    if (code == SUCCESS)
        *index = (unsigned int)(gpu - machine.gpu);
    return code;
}

int nvmlDeviceGetName(void *handle, char *name, unsigned int length) {
    struct gpu *gpu;
    int code = consult(handle, "name", &gpu);
    if (code == SUCCESS)
        snprintf(name, length, "%s", gpu->name);
    return code;
}

int nvmlDeviceGetUUID(void *handle, char *uuid, unsigned int length) {
    struct gpu *gpu;
    int code = consult(handle, "uuid", &gpu);
    if (code == SUCCESS)
        snprintf(uuid, length, "%s", gpu->uuid);
    return code;
}

int nvmlDeviceGetPciInfo_v3(void *handle, struct pci *pci) {
    struct gpu *gpu;
    int code = consult(handle, "pci", &gpu);
    if (code == SUCCESS)
        snprintf(pci->bus_id, sizeof pci->bus_id, "%s", gpu->pci);
    return code;
}

int nvmlDeviceGetMemoryInfo(void *handle, struct memory *memory) {
    struct gpu *gpu;
    int code = consult(handle, "memory", &gpu);
    if (code != SUCCESS)
        return code;
    memory->total = gpu->total;
    memory->used = gpu->used + gpu->reserved; /* the first version doesn't tell the two apart */
    memory->free = memory->total - memory->used;
    return SUCCESS;
}

#ifndef WITHOUT_MEMORY_V2
int nvmlDeviceGetMemoryInfo_v2(void *handle, struct memory_v2 *memory) {
    struct gpu *gpu;
    int code = consult(handle, "memory", &gpu);
    if (code != SUCCESS)
        return code;
    if (memory->version != (sizeof *memory | 2u << 24))
        return VERSION_MISMATCH;
    memory->total = gpu->total;
    memory->reserved = gpu->reserved;
    memory->used = gpu->used;
    memory->free = gpu->total - gpu->used - gpu->reserved;
    return SUCCESS;
}
#endif

int nvmlDeviceGetUtilizationRates(void *handle, struct utilisation *utilisation) {
    struct gpu *gpu;
    int code = consult(handle, "utilisation", &gpu);
    if (code != SUCCESS)
        return code;
    if (gpu->utilisation == ABSENT)
        return NOT_SUPPORTED;
    utilisation->gpu = gpu->utilisation;
    utilisation->memory = 0;
    return SUCCESS;
}

int nvmlDeviceGetMigMode(void *handle, unsigned int *current, unsigned int *pending) {
    struct gpu *gpu;
    int code = consult(handle, "mig", &gpu);
    if (code != SUCCESS)
        return code;
    if (gpu->mig == ABSENT)
        return NOT_SUPPORTED;
    *current = *pending = gpu->mig;
    return SUCCESS;
}

static int list(const struct processes *processes, unsigned int *count, struct process *room) {
    unsigned int capacity = *count;
    *count = processes->count;
    if (!processes->count)
        return SUCCESS;
    if (!room || capacity < processes->count)
        return INSUFFICIENT_SIZE;
    memcpy(room, processes->list, processes->count * sizeof *room);
    return SUCCESS;
}

static int computing(void *handle, unsigned int *count, struct process *room) {
    struct gpu *gpu;
    int code = consult(handle, "processes", &gpu);
    return code != SUCCESS ? code : list(&gpu->computing, count, room);
}

static int drawing(void *handle, unsigned int *count, struct process *room) {
    struct gpu *gpu;
    int code = consult(handle, "processes", &gpu);
    return code != SUCCESS ? code : list(&gpu->drawing, count, room);
}

int nvmlDeviceGetComputeRunningProcesses_v2(void *handle, unsigned int *count, struct process *room) {
    return computing(handle, count, room);
}

int nvmlDeviceGetGraphicsRunningProcesses_v2(void *handle, unsigned int *count, struct process *room) {
    return drawing(handle, count, room);
}

#ifndef WITHOUT_PROCESSES_V3
int nvmlDeviceGetComputeRunningProcesses_v3(void *handle, unsigned int *count, struct process *room) {
    return computing(handle, count, room);
}

int nvmlDeviceGetGraphicsRunningProcesses_v3(void *handle, unsigned int *count, struct process *room) {
    return drawing(handle, count, room);
}
#endif

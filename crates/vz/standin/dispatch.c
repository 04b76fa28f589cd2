/* Serial dispatch queues: a thread each. */
#include "standin.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

struct item {
    struct item *next;
    void *context;
    void (*work)(void *);
};

struct queue {
    pthread_mutex_t lock;
    pthread_cond_t changed;
    struct item *first, **last;
    int refs;
};

static _Thread_local queue *current;

queue *current_queue(void) { return current; }

/* Works until nobody holds the queue any more and nothing is left in it. */
static void *run(void *argument) {
    queue *queue = argument;
    current = queue;
    /* Emptied when the queue has nothing to do for good: whoever needs it sooner has a pool of their own. */
    void *pool = objc_autoreleasePoolPush();
    pthread_mutex_lock(&queue->lock);
    for (;;) {
        struct item *item = queue->first;
        if (item) {
            queue->first = item->next;
            if (!queue->first)
                queue->last = &queue->first;
            pthread_mutex_unlock(&queue->lock);
            item->work(item->context);
            free(item);
            pthread_mutex_lock(&queue->lock);
        } else if (queue->refs == 0) {
            break;
        } else {
            pthread_cond_wait(&queue->changed, &queue->lock);
        }
    }
    pthread_mutex_unlock(&queue->lock);
    objc_autoreleasePoolPop(pool);
    pthread_cond_destroy(&queue->changed);
    pthread_mutex_destroy(&queue->lock);
    free(queue);
    return NULL;
}

queue *dispatch_queue_create(const char *label, void *attributes) {
    if (attributes)
        fault("queue %s is not serial", label);
    queue *queue = calloc(1, sizeof *queue);
    pthread_mutex_init(&queue->lock, NULL);
    pthread_cond_init(&queue->changed, NULL);
    queue->last = &queue->first;
    queue->refs = 1;
    pthread_t thread;
    if (pthread_create(&thread, NULL, run, queue) != 0)
        fault("no thread for queue %s", label);
    pthread_detach(thread);
    return queue;
}

void dispatch_retain(queue *queue) {
    pthread_mutex_lock(&queue->lock);
    queue->refs++;
    pthread_mutex_unlock(&queue->lock);
}

void dispatch_release(queue *queue) {
    pthread_mutex_lock(&queue->lock);
    if (--queue->refs < 0)
        fault("a queue is released once too often");
    pthread_cond_signal(&queue->changed);
    pthread_mutex_unlock(&queue->lock);
}

void dispatch_async_f(queue *queue, void *context, void (*work)(void *)) {
    struct item *item = malloc(sizeof *item);
    *item = (struct item){NULL, context, work};
    pthread_mutex_lock(&queue->lock);
    *queue->last = item;
    queue->last = &item->next;
    pthread_cond_signal(&queue->changed);
    pthread_mutex_unlock(&queue->lock);
}
